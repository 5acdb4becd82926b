// The one declaration of every setting.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "quest/base/error.h"
#include "quest/train/train_config.h"

namespace quest::train {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMany = int64_t{1} << 52;  // above any count here; exact in a double

// What a setting may be beyond its type.
struct Facts {
  std::string flags;     // "--lr"
  bool identity = true;  // false: does not change the run's result
  // Newer than run folders that are about: at its default it is left out of their hash.
  bool is_new = false;
};

// Collects settings; each method is one type of field.
class Declaration {
 public:
  explicit Declaration(std::vector<Setting>& list) : list_(list) {}

  void integer(std::string key, int64_t& field, int64_t low, int64_t high, std::string help,
               Facts facts = {}) {
    integer(
        std::move(key), [&field] { return field; }, [&field](int64_t x) { field = x; }, low, high,
        std::move(help), std::move(facts));
  }
  void real(std::string key, double& field, double low, double high, std::string help,
            Facts facts = {}) {
    real(
        std::move(key), [&field] { return field; }, [&field](double x) { field = x; }, low, high,
        std::move(help), std::move(facts));
  }
  // Any text if there are no choices.
  void text(std::string key, std::string& field, std::vector<std::string> choices, std::string help,
            Facts facts = {}) {
    text(
        std::move(key), [&field] { return field; }, [&field](const std::string& x) { field = x; },
        std::move(choices), std::move(help), std::move(facts));
  }

  void integer(std::string key, std::function<int64_t()> get, std::function<void(int64_t)> assign,
               int64_t low, int64_t high, std::string help, Facts facts = {}) {
    std::string range =
        high == kMany ? fmt::format("{} or more", low) : fmt::format("{} to {}", low, high);
    auto set = [key, assign, low, high, range](const TomlValue& value) {
      const auto* whole = std::get_if<int64_t>(&value);
      const auto* number = std::get_if<double>(&value);
      // 3e9 is a handy way to write a number of tokens.
      const bool integral = number && std::abs(*number) <= static_cast<double>(kMany) &&
                            *number == std::floor(*number);
      QUEST_CHECK(whole || integral, ErrorKind::kUsage, "{} is {}, a whole number is expected", key,
                  toml_text(value));
      const int64_t x = whole ? *whole : static_cast<int64_t>(*number);
      QUEST_CHECK(x >= low && x <= high, ErrorKind::kUsage, "{} is {}, allowed: {}", key, x, range);
      assign(x);
    };
    add(
        key, help, range, [get] { return TomlValue(get()); }, set, read_number, facts);
  }

  void real(std::string key, std::function<double()> get, std::function<void(double)> assign,
            double low, double high, std::string help, Facts facts = {}) {
    std::string range =
        high == kInfinity ? fmt::format("{} or more", low) : fmt::format("{} to {}", low, high);
    auto set = [key, assign, low, high, range](const TomlValue& value) {
      const auto* whole = std::get_if<int64_t>(&value);
      const auto* number = std::get_if<double>(&value);
      QUEST_CHECK(whole || number, ErrorKind::kUsage, "{} is {}, a number is expected", key,
                  toml_text(value));
      const double x = whole ? static_cast<double>(*whole) : *number;
      QUEST_CHECK(x >= low && x <= high && std::isfinite(x), ErrorKind::kUsage,
                  "{} is {}, allowed: {}", key, x, range);
      assign(x);
    };
    add(
        key, help, range, [get] { return TomlValue(get()); }, set, read_number, facts);
  }

  void boolean(std::string key, bool& field, std::string help, Facts facts = {}) {
    auto set = [key, &field](const TomlValue& value) {
      const auto* flag = std::get_if<bool>(&value);
      QUEST_CHECK(flag, ErrorKind::kUsage, "{} is {}, true or false is expected", key,
                  toml_text(value));
      field = *flag;
    };
    add(
        key, help, "true, false", [&field] { return TomlValue(field); }, set, read_number, facts);
  }

  void text(std::string key, std::function<std::string()> get,
            std::function<void(const std::string&)> assign, std::vector<std::string> choices,
            std::string help, Facts facts = {}) {
    std::string range = fmt::format("{}", fmt::join(choices, ", "));
    auto set = [key, assign, choices, range](const TomlValue& value) {
      const auto* word = std::get_if<std::string>(&value);
      QUEST_CHECK(word, ErrorKind::kUsage, "{} is {}, a string in quotes is expected", key,
                  toml_text(value));
      QUEST_CHECK(
          choices.empty() || std::find(choices.begin(), choices.end(), *word) != choices.end(),
          ErrorKind::kUsage, "{} is \"{}\", allowed: {}", key, *word, range);
      assign(*word);
    };
    auto read = [](std::string_view word) { return TomlValue(std::string(word)); };
    add(
        key, help, range, [get] { return TomlValue(get()); }, set, read, facts);
  }

 private:
  // Numbers and booleans are written on the command line as in the file.
  static TomlValue read_number(std::string_view word) {
    const TomlTable table = parse_toml("value = " + std::string(word), "command line");
    return table.at(0).value;
  }

  void add(const std::string& key, const std::string& help, const std::string& range,
           std::function<TomlValue()> get, std::function<void(const TomlValue&)> set,
           std::function<TomlValue(std::string_view)> read, const Facts& facts) {
    list_.push_back({key, facts.flags, help, range, facts.identity, facts.is_new, std::move(get),
                     std::move(set), std::move(read)});
  }

  std::vector<Setting>& list_;
};

// "a, b, c" as a list.
std::vector<std::string> split_names(const std::string& names) {
  std::vector<std::string> out;
  for (size_t at = 0; at < names.size();) {
    const size_t end = std::min(names.find(", ", at), names.size());
    out.push_back(names.substr(at, end - at));
    at = end + 2;
  }
  return out;
}

void declare_side(Declaration& d, const std::string& side, QuantSpec& spec) {
  const std::string key = "quant." + side + ".";
  // The shortest text of a float, so that 1.3f is written 1.3.
  const auto shortest = [](float x) { return std::stod(fmt::format("{}", x)); };
  d.text(
      key + "grid", [&spec] { return grid_word(spec); },
      [&spec](const std::string& word) { set_grid(spec, word); }, split_names(grid_names()),
      "levels that the " + side + "s are rounded to");
  d.integer(
      key + "bits", [&spec] { return spec.bits; },
      [&spec](int64_t bits) { spec.bits = static_cast<int>(bits); }, 1, 16,
      "bits of one " + side +
          ": 1 to 8 for uniform, 1 to 4 for gaussian, given by the other grids");
  d.boolean(key + "hadamard", spec.hadamard, "rotate blocks of each row before rounding");
  d.text(
      key + "estimator", [&spec] { return std::string(estimator_name(spec.estimator)); },
      [&spec](const std::string& word) { spec.estimator = estimator_from_name(word); },
      split_names(estimator_names()),
      "values that pass gradient: within the trust region, inside the clipping range, or all");
  d.real(
      key + "trust_scale", [&spec, shortest] { return shortest(spec.trust_scale); },
      [&spec](double x) { spec.trust_scale = static_cast<float>(x); }, 0, 1e6,
      "outer trust factor s: the trust limit is s half steps");
  d.real(
      key + "clip_scale", [&spec, shortest] { return shortest(spec.clip_scale); },
      [&spec](double x) { spec.clip_scale = static_cast<float>(x); }, 0, 1e6,
      "the clip estimator's limit in units of the scale");
}

void declare_run(Declaration& d, TrainConfig::Run& run) {
  d.text("run.name", run.name, {}, "name of the run; empty: the quantization recipe's name",
         {"--name", false});
  d.text("run.folder", run.folder, {}, "the run's folder <name>-<hash> is made in this one",
         {"--out", false});
  d.text("run.init", run.init, {},
         "run, checkpoint or Hugging Face Llama folder to take first weights and shape from, "
         "and the quantization recipe unless one is given",
         {"--init"});
  d.text("run.parent", run.parent, {},
         "checkpoint whose weights, optimizer and data position this run goes on from "
         "(--continue sets it)");
  d.integer("run.seed", run.seed, 0, kMany, "seed of first weights and data order", {"--seed"});
  d.integer("run.threads", run.threads, 0, 4096, "threads; 0: the cores this process may use",
            {"--threads", false});
}

void declare_model(Declaration& d, TrainConfig::Model& m) {
  std::vector<std::string> presets = {"none"};
  for (const ModelPreset& preset : model_presets()) presets.push_back(preset.name);
  d.text("model.preset", m.preset, presets,
         "the paper's sizes (parameters without embedding); gives every size below that is 0",
         {"--preset"});
  d.integer("model.vocab_size", m.vocab_size, 0, 1 << 24, "0: the tokenizer's");
  d.integer("model.hidden_size", m.hidden_size, 0, 1 << 20, "width C; 0: the preset's");
  d.integer("model.num_layers", m.num_layers, 0, 1 << 14, "blocks L; 0: the preset's");
  d.integer("model.num_heads", m.num_heads, 0, 1 << 14, "attention heads H; 0: the preset's");
  d.integer("model.num_kv_heads", m.num_kv_heads, 0, 1 << 14, "key-value heads; 0: num_heads");
  d.integer("model.head_dim", m.head_dim, 0, 1 << 14, "head size; 0: hidden_size / num_heads");
  d.integer("model.intermediate_size", m.intermediate_size, 0, 1 << 22,
            "MLP width F; 0: 256 * ceil(8/3 C / 256)");
  d.integer("model.max_position_embeddings", m.max_position_embeddings, 0, 1 << 30,
            "longest context; 0: train.sequence_length");
  d.real("model.rms_norm_eps", m.rms_norm_eps, 0, 1, "epsilon of RMSNorm");
  d.real("model.rope_theta", m.rope_theta, 1, 1e12, "base of the rotary frequencies");
  d.text("model.rope_scaling", m.rope_scaling, {"none", "linear", "dynamic", "llama3"},
         "rotary scaling for long contexts");
  d.real("model.rope_scaling_factor", m.rope_scaling_factor, 1, 1e6, "how much longer");
  d.real("model.rope_low_frequency_factor", m.rope_low_frequency_factor, 0, 1e6, "llama3 only");
  d.real("model.rope_high_frequency_factor", m.rope_high_frequency_factor, 0, 1e6, "llama3 only");
  d.integer("model.rope_original_max_position", m.rope_original_max_position, 0, 1 << 30,
            "context length before scaling; 0: max_position_embeddings");
  d.boolean("model.tie_word_embeddings", m.tie_word_embeddings, "head shares the embedding");
}

// Notes that a setting of these was given, by whatever way it is set.
void note_when_set(std::vector<Setting>& list, size_t first, bool& given) {
  for (size_t k = first; k < list.size(); ++k) {
    list[k].set = [set = std::move(list[k].set), &given](const TomlValue& value) {
      set(value);
      given = true;
    };
  }
}

void declare_quant(Declaration& d, QuantRecipe& quant) {
  std::string patterns;
  for (const RecipeHelp& help : recipe_names()) {
    patterns += (patterns.empty() ? "" : ", ") + help.pattern;
  }
  d.text(
      "quant.recipe", [&quant] { return quant.name; },
      [&quant](const std::string& name) {
        if (name == "custom") {
          quant.name = name;
        } else {
          quant = recipe_from_name(name);
        }
      },
      {}, "sets both sides: " + patterns + "; custom: as the sides below say", {"--quant"});
  declare_side(d, "weight", quant.weight);
  declare_side(d, "activation", quant.activation);
}

void set_length(TrainConfig::Train& train, int64_t steps, int64_t tokens, double epochs) {
  train.steps = steps;
  train.tokens = tokens;
  train.epochs = epochs;
}

void declare_data(Declaration& d, TrainConfig& c) {
  d.text("data.train", c.data.train, {},
         "token files made by `quest data` (joined by commas), or its folder with train.qtok",
         {"--data"});
  d.text("data.validation", c.data.validation, {},
         "token file to evaluate on; empty: validation.qtok in the folder, if there is one",
         {"--validation"});
  d.text("data.tokenizer", c.data.tokenizer, {},
         "tokenizer file or folder, or bytes; empty: the folder of the token file",
         {"--tokenizer"});
  d.boolean("data.shuffle", c.data.shuffle, "pseudo-random order of windows");
  d.boolean("data.mask_document_starts", c.data.mask_document_starts,
            "no loss on a document's first token, which another document precedes");

  // One of three says how long to train: a flag replaces what the file says.
  TrainConfig::Train& t = c.train;
  d.integer(
      "train.steps", [&t] { return t.steps; },
      [&t](int64_t x) { x > 0 ? set_length(t, x, 0, 0) : void(t.steps = 0); }, 0, kMany,
      "optimizer steps; this, tokens or epochs", {"--steps"});
  d.integer(
      "train.tokens", [&t] { return t.tokens; },
      [&t](int64_t x) { x > 0 ? set_length(t, 0, x, 0) : void(t.tokens = 0); }, 0, kMany,
      "tokens to train on, e.g. 3e9", {"--tokens"});
  d.real(
      "train.epochs", [&t] { return t.epochs; },
      [&t](double x) { x > 0 ? set_length(t, 0, 0, x) : void(t.epochs = 0); }, 0, 1e6,
      "passes over the training tokens", {"--epochs"});
  d.integer("train.batch_size", c.train.batch_size, 1, 1 << 24,
            "sequences per optimizer step, over all ranks", {"--batch"});
  d.integer("train.micro_batch_size", c.train.micro_batch_size, 0, 1 << 24,
            "sequences per forward pass of a rank, the rest is accumulated; 0: no accumulation",
            {"--micro-batch"});
  d.integer("train.sequence_length", c.train.sequence_length, 1, 1 << 24, "tokens per sequence",
            {"--sequence-length"});
  d.text("train.compute_type", c.train.compute_type, {"fp32", "bf16", "fp64"},
         "type of activations and products; master weights are FP32 (fp64: all in FP64, for tests)",
         {"--compute"});
  d.text("train.device", c.train.device, {"cpu", "cuda"}, "where to compute",
         {"--device", true, true});
  d.text("train.recompute", c.train.recompute, {"off", "mlp", "block"},
         "what the backward pass computes again to save memory: nothing, MLPs, or whole blocks",
         Facts{"--recompute", false});
  d.text(
      "train.backward", c.train.backward, {"bf16", "fp8"},
      "GPU: type of the blocks' backward products; fp8 rounds gradients to e4m3, needs at most 4 "
      "bits on both sides",
      {"--backward", true, true});
  d.text("train.gradient_format", c.train.gradient_format, {"e4m3", "e5m2"},
         "FP8 backward: what gradients are rounded to, with a scale per row and per column",
         Facts{"", true, true});
  d.text("train.gradient_rounding", c.train.gradient_rounding, {"nearest", "stochastic"},
         "FP8 backward: to the nearest value, or to a neighbour by chance so that the mean stays",
         Facts{"", true, true});
  d.boolean("train.gradient_hadamard", c.train.gradient_hadamard,
            "FP8 backward: rotate both sides of each product along its sum by a Hadamard transform "
            "(blocks of 128, or of the largest power of two that divides the length) before they "
            "are rounded: the rounding of a few large gradients is averaged, but codes are rounded "
            "too, and it is slower than the BF16 backward pass",
            Facts{"", true, true});
  d.boolean("train.cuda_graphs", c.train.cuda_graphs,
            "GPU: record a step once as CUDA graphs and replay them; false: start every operation "
            "from the host",
            Facts{"", false});
  d.boolean("train.deterministic", c.train.deterministic,
            "GPU: the same bits for the same seed, also when resumed (slower attention backward)",
            Facts{"", true, true});
}

void declare_optimizer(Declaration& d, TrainConfig& c) {
  auto& o = c.optimizer;
  d.text("optimizer.name", o.name, {"adamw", "sgd", "schedule_free_adamw"}, "update rule",
         {"--optimizer"});
  d.real("optimizer.lr", o.lr, 0, 1e3, "highest learning rate", {"--lr"});
  d.real("optimizer.beta1", o.beta1, 0, 0.999999999, "AdamW: memory of the gradient");
  d.real("optimizer.beta2", o.beta2, 0, 0.999999999, "AdamW: memory of its square");
  d.real("optimizer.eps", o.eps, 0, 1, "AdamW: added to the denominator");
  d.real("optimizer.weight_decay", o.weight_decay, 0, 1e3,
         "decoupled (SGD: of lr times weight), on block matrices only", {"--weight-decay"});
  d.real("optimizer.quantizer_weight_decay", o.quantizer_weight_decay, 0, 1e3,
         "the same for what quantizers learn (lsq, lsq_plus, pact, paretoq)", {"", true, true});
  d.real("optimizer.momentum", o.momentum, 0, 0.999999999, "SGD");
  d.boolean("optimizer.nesterov", o.nesterov, "SGD: Nesterov momentum");
  d.real("optimizer.clip_norm", o.clip_norm, 0, 1e9, "largest norm of the gradient; 0: no limit",
         {"--clip-norm"});

  auto& s = c.schedule;
  d.text("schedule.name", s.name, {"onecycle", "cos", "linear", "wsd", "cos_inf", "constant"},
         "shape of the learning rate", {"--schedule"});
  d.real("schedule.warmup_fraction", s.warmup_fraction, 0, 1, "part of the steps that warm up",
         {"--warmup"});
  d.integer("schedule.warmup_steps", s.warmup_steps, 0, kMany,
            "steps of warm-up; 0: warmup_fraction decides");
  d.real("schedule.div_factor", s.div_factor, 1e-6, 1e12, "warm-up starts at lr / div_factor");
  d.real("schedule.final_div_factor", s.final_div_factor, 1e-6, 1e12,
         "ends at lr / div_factor / final_div_factor (all but wsd and constant)");
  d.real("schedule.decay_fraction", s.decay_fraction, 0, 1, "wsd: part of the steps that decay");
  d.text("schedule.decay_shape", s.decay_shape,
         {"linear", "cosine", "exp", "mirror_cosine", "square", "sqrt"}, "wsd: shape of the decay");
  d.real("schedule.decay_final_factor", s.decay_final_factor, 0, 1,
         "wsd: ends at this times lr (exp needs more than 0)");
  d.real("schedule.constant_fraction", s.constant_fraction, 0, 1,
         "cos_inf: part of the steps that stay at the final rate");
}

void declare_watching(Declaration& d, TrainConfig& c) {
  d.integer("eval.every", c.eval.every, 0, kMany, "steps between evaluations; 0: at the end only",
            {"--eval-every"});
  d.integer("eval.tokens", c.eval.tokens, 0, kMany,
            "tokens from the validation file's start for these evaluations; 0: all");
  d.integer("eval.batch_size", c.eval.batch_size, 0, 1 << 20,
            "sequences per forward pass; 0: as in training");
  d.boolean("eval.full_at_end", c.eval.full_at_end, "the last evaluation takes the whole file");

  const Facts aside{"", false};
  d.integer("checkpoint.every", c.checkpoint.every, 0, kMany,
            "steps between checkpoints; 0: by minutes and at the end only",
            {"--checkpoint-every", false});
  d.real("checkpoint.minutes", c.checkpoint.minutes, 0, 1e6,
         "also a checkpoint when the last is this old; 0: never for its age", aside);
  d.integer("checkpoint.keep_last", c.checkpoint.keep_last, 1, 1 << 20, "newest ones kept", aside);
  d.boolean("checkpoint.keep_best", c.checkpoint.keep_best,
            "also keep the one with the lowest validation loss (the link checkpoints/best)", aside);
  d.text("checkpoint.export_dtype", c.checkpoint.export_dtype, {"fp32", "bf16"},
         "type of the weights in the run's folder final/", aside);

  auto& g = c.guards;
  d.text("guards.nonfinite", g.nonfinite, {"skip", "stop"},
         "what to do with a step whose loss or gradient is not finite");
  d.integer("guards.max_skipped", g.max_skipped, 1, kMany,
            "stop when this many steps in a row were skipped");
  d.text("guards.spike", g.spike, {"off", "warn", "skip", "stop"},
         "what to do with a step whose loss stands out from those before");
  d.real("guards.spike_z", g.spike_z, 0.1, 1e6,
         "a spike is this many standard deviations above the mean of the window");
  d.integer("guards.spike_window", g.spike_window, 8, 1 << 20, "losses in the window");

  auto& a = c.averaging;
  d.real("averaging.ema_decay", a.ema_decay, 0, 0.999999999,
         "exponential moving average of the weights, evaluated beside them; 0: none", {"--ema"});
  d.integer("averaging.horizon", a.horizon, 0, kMany,
            "plain mean of the weights over this many steps, evaluated beside them; 0: none");
  d.integer("averaging.interval", a.interval, 1, kMany, "steps between the weights averaged");

  auto& x = c.diagnostics;
  d.integer("diagnostics.every", x.every, 0, kMany,
            "steps between diagnostics of every quantized layer: masked values, use of codes, "
            "error, kurtosis, cosine of the gradient with the unquantized one; also before the "
            "first step; the run stays the same to the bit; 0: never",
            aside);
  d.integer("diagnostics.batch_size", x.batch_size, 1, 1 << 20,
            "sequences they are measured on: the first of the validation file, or of the training "
            "file if there is none",
            aside);
  d.integer("diagnostics.keep_masks", x.keep_masks, 0, 1 << 20,
            "earlier steps, spread over the run, whose weight masks are kept to tell how many are "
            "masked still: one bit per weight each",
            aside);

  d.integer("log.every", c.log.every, 1, kMany, "steps between lines of metrics.jsonl", aside);
  d.real("log.seconds", c.log.seconds, 0, 1e6,
         "seconds between progress lines where stderr is no terminal", aside);
  d.boolean("log.tensorboard", c.log.tensorboard, "write TensorBoard event files", aside);
  d.real("log.peak_tflops", c.log.peak_tflops, 0, 1e6,
         "peak that MFU refers to, in TFLOP/s; 0: measured at the start", aside);
}

}  // namespace

std::vector<Setting> list_settings(TrainConfig& config) {
  std::vector<Setting> list;
  Declaration d(list);
  declare_run(d, config.run);
  declare_model(d, config.model);
  const size_t first_of_quant = list.size();
  declare_quant(d, config.quant);
  note_when_set(list, first_of_quant, config.quant_given);
  declare_data(d, config);
  declare_optimizer(d, config);
  declare_watching(d, config);
  return list;
}

}  // namespace quest::train
