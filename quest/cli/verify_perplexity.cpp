#include "quest/cli/verify_perplexity.h"

#include <cmath>
#include <functional>

#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli/model_folder.h"
#include "quest/cli_run/engine_scorer.h"
#include "quest/eval/paired.h"
#include "quest/packed/table_codes.h"
#include "quest/runtime/cpu_engine.h"
#include "quest/train/model_scorer.h"
#include "quest/train/toml.h"

namespace quest::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Logprobs = std::vector<float>;

constexpr int64_t kWindowsAtOnce = 4;

Logprobs run(const char* label, Scorer& scorer, std::span<const int32_t> tokens, int64_t context) {
  ProgressBar bar(label, static_cast<int64_t>(tokens.size()) - 1, "tokens");
  Logprobs logprobs = token_logprobs(scorer, tokens, context, [&](int64_t done, int64_t) {
    bar.update(done);
    stop_if_asked();
  });
  bar.finish();
  return logprobs;
}

const at::Tensor& parameter(const std::vector<nn::NamedParameter>& all, const std::string& name) {
  for (const nn::NamedParameter& p : all) {
    if (p.name == name) return p.tensor;
  }
  QUEST_ASSERT(false, "no parameter {}", name);
  return all.front().tensor;
}

// The table of a model in FP32, row by row: row(v, x) changes x (C) in place.
void change_rows(const at::Tensor& table,
                 const std::function<void(int64_t v, std::span<float> x)>& row) {
  const int64_t columns = table.size(1);
  float* data = table.detach().data_ptr<float>();
  for (int64_t v = 0; v < table.size(0); ++v) {
    row(v, std::span(data + v * columns, static_cast<size_t>(columns)));
  }
}

void round_to_bf16(const at::Tensor& table) {
  change_rows(table, [](int64_t, std::span<float> x) {
    for (float& value : x) value = round_to_bfloat16(value);
  });
}

void take_packed(const at::Tensor& table, const PackedTable& packed) {
  change_rows(table, [&](int64_t v, std::span<float> x) { dequantize_table_row(packed, v, x); });
}

// Log-probabilities of the same tokens.
struct Forwards {
  Logprobs packed;
  Logprobs with_tables;  // training in FP32, packed tables
  Logprobs exact;        // training in FP32, tables as training saw them
  Logprobs own;          // training in its own compute type
};
struct Shares {
  PairedDifference engine, tables, total, training;
};

Forwards run_forwards(const std::filesystem::path& checkpoint, const std::string& compute,
                      CpuEngine& engine, std::span<const int32_t> tokens) {
  const int64_t context = engine.context_length();
  Forwards out;
  {
    EngineScorer scorer(engine);
    out.packed = run("packed", scorer, tokens, context);
  }
  {
    const LoadedModel loaded = load_model(checkpoint, {.compute_type = "fp32"});
    train::ModelScorer scorer(*loaded.model, kWindowsAtOnce);
    const auto parameters = loaded.model->parameters();
    std::vector<std::pair<at::Tensor, const PackedTable*>> tables = {
        {parameter(parameters, "model.embed_tokens.weight"), &engine.model().embedding()}};
    if (!engine.config().tie_word_embeddings) {
      tables.emplace_back(parameter(parameters, "lm_head.weight"), &engine.model().head());
    }
    if (compute == "bf16") {
      for (const auto& table : tables) round_to_bf16(table.first);
    }
    out.exact = run("training in fp32", scorer, tokens, context);
    for (const auto& [table, packed] : tables) take_packed(table, *packed);
    out.with_tables = run("with packed tables", scorer, tokens, context);
  }
  if (compute == "fp32") {
    out.own = out.exact;
    return out;
  }
  const LoadedModel loaded = load_model(checkpoint, {.compute_type = compute});
  train::ModelScorer scorer(*loaded.model, kWindowsAtOnce);
  out.own = run(("training in " + compute).c_str(), scorer, tokens, context);
  return out;
}

std::string text_of(const PairedDifference& d) {
  const std::string size = fmt::format("{:+.4f} %", 100 * d.relative);
  return std::isfinite(d.standard_error)
             ? fmt::format("{} +- {:.4f} %", size, 100 * d.standard_error)
             : size;
}

OrderedJson json_of(const PairedDifference& d) {
  OrderedJson json = {{"relative", d.relative}, {"standard_error", nullptr}};
  if (std::isfinite(d.standard_error)) json["standard_error"] = d.standard_error;
  return json;
}

// Judges one difference; gives its verdict's name.
const char* hold(PerplexityReport& report, const std::string& what, const PairedDifference& d,
                 double tolerance, const std::string& advice) {
  const Verdict verdict = judge(d, tolerance);
  const std::string text = fmt::format("perplexity of {} differs by {}, more than {:g} %", what,
                                       text_of(d), 100 * tolerance);
  if (verdict == Verdict::kBeyond) report.differences.push_back(text + ": " + advice);
  if (verdict == Verdict::kUndecided) {
    report.warnings.push_back(text +
                              ", but by less than three standard errors: give a longer text "
                              "(--text or --tokens, --max-tokens) to tell");
  }
  return verdict_name(verdict);
}

}  // namespace

std::string trained_compute_type(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.toml";
  if (!std::filesystem::exists(file)) return "bf16";
  for (const train::TomlEntry& entry : train::parse_toml_file(file)) {
    const auto* value = std::get_if<std::string>(&entry.value);
    if (entry.key == "train.compute_type" && value != nullptr) return *value;
  }
  return "bf16";
}

double default_tolerance(TableFormats formats, const std::string& compute) {
  if (formats.embedding == TableFormat::kInt4 || formats.head == TableFormat::kInt4) return 0.02;
  if (formats.embedding == TableFormat::kInt8 || compute != "bf16") return 0.01;
  return 0.001;
}

PerplexityReport verify_perplexity(const PerplexityArguments& arguments,
                                   std::span<const int32_t> tokens) {
  CpuEngine engine{PackedModel(arguments.packed)};
  const TableFormats formats{engine.model().embedding().format, engine.model().head().format};
  const int64_t context = engine.context_length();
  const std::string compute =
      arguments.compute.empty() ? trained_compute_type(arguments.checkpoint) : arguments.compute;
  const Forwards forwards = run_forwards(arguments.checkpoint, compute, engine, tokens);
  const double tolerance = arguments.tolerance.value_or(default_tolerance(formats, compute));
  const auto share = [&](const Logprobs& a, const Logprobs& b) {
    return paired_difference(a, b, context);
  };
  const Shares shares{.engine = share(forwards.packed, forwards.with_tables),
                      .tables = share(forwards.with_tables, forwards.exact),
                      .total = share(forwards.packed, forwards.exact),
                      .training = share(forwards.packed, forwards.own)};
  PerplexityReport report;
  const char* engine_verdict =
      hold(report, "the engine and of training in FP32 with the same tables", shares.engine,
           kEngineTolerance, "the engine computes something else; this is an error in quest");
  const char* verdict =
      hold(report, "the packed and the trained model", shares.total, tolerance,
           "take finer tables (quest export --embedding bf16 --head bf16), or allow more "
           "(--tolerance)");
  const double packed = perplexity_of(forwards.packed), exact = perplexity_of(forwards.exact),
               own = perplexity_of(forwards.own);
  fmt::print("perplexity     packed {:.4f} on {} tokens\n", packed, forwards.packed.size());
  fmt::print("  engine       {} from training in fp32 with the packed tables: {} {:g} %\n",
             text_of(shares.engine), engine_verdict, 100 * kEngineTolerance);
  fmt::print("  tables       {} by embedding in {} and head in {}\n", text_of(shares.tables),
             table_format_name(formats.embedding), table_format_name(formats.head));
  fmt::print("  together     {} from training in fp32 ({:.4f}): {} {:g} %\n", text_of(shares.total),
             exact, verdict, 100 * tolerance);
  if (compute != "fp32") {
    fmt::print("  (training in {}, as `quest eval` gives it: {:.4f}; packed is {} from it)\n",
               compute, own, text_of(shares.training));
  }
  report.json = {{"tokens", forwards.packed.size()},
                 {"packed", packed},
                 {"training_fp32", exact},
                 {"training_fp32_packed_tables", perplexity_of(forwards.with_tables)},
                 {"compute_type", compute},
                 {"training", own},
                 {"engine", json_of(shares.engine)},
                 {"engine_verdict", engine_verdict},
                 {"tables", json_of(shares.tables)},
                 {"total", json_of(shares.total)},
                 {"tolerance", tolerance},
                 {"verdict", verdict},
                 {"from_training", json_of(shares.training)}};
  return report;
}

}  // namespace quest::cli
