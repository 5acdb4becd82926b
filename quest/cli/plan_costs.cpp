#include "quest/cli/plan_costs.h"

#include <algorithm>
#include <cmath>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/scaling/power_curve.h"
#include "quest/train/train_config.h"

namespace quest::cli {
namespace {

using scaling::PowerCurve;

std::vector<LlamaConfig> preset_shapes(const DeploymentSettings& settings) {
  std::vector<LlamaConfig> shapes;
  for (const train::ModelPreset& preset : train::model_presets()) {
    train::TrainConfig config;
    config.model.preset = preset.name;
    config.model.vocab_size = settings.vocabulary;
    config.model.tie_word_embeddings = settings.tied;
    shapes.push_back(train::resolve_model(config, settings.vocabulary));
  }
  return shapes;
}

struct PartBytes {
  double blocks = 0, embedding = 0, head = 0;
};

PartBytes packed_bytes(const LlamaConfig& shape, const QuantRecipe& recipe, TableFormats tables) {
  PartBytes bytes;
  double* part = &bytes.embedding;  // the layout begins with it; paddings belong to what is before
  for (const PackedEntry& entry : packed_layout(shape, recipe, tables)) {
    if (entry.name.starts_with("model.layers.") || entry.name == "model.norm.weight") {
      part = &bytes.blocks;
    } else if (entry.name.starts_with("lm_head")) {
      part = &bytes.head;
    }
    *part += static_cast<double>(entry.bytes);
  }
  return bytes;
}

// Bytes of a packed model and of what a step of writing reads, by N.
struct SizeOfModel {
  std::function<double(double)> all, step;
};

SizeOfModel size_of_model(const QuantRecipe& recipe, const DeploymentSettings& settings) {
  std::vector<std::pair<double, double>> blocks, embedding, head;
  for (const LlamaConfig& shape : preset_shapes(settings)) {
    const double n = static_cast<double>(shape.non_embedding_parameters());
    const PartBytes bytes = packed_bytes(shape, recipe, settings.tables);
    blocks.emplace_back(n, bytes.blocks);
    embedding.emplace_back(n, bytes.embedding);
    head.emplace_back(n, settings.tied ? bytes.embedding : bytes.head);
  }
  const auto curve = [](auto& points) {
    return PowerCurve(std::move(points), PowerCurve::Beyond::kGoesOn);
  };
  const PowerCurve of_blocks = curve(blocks), of_embedding = curve(embedding),
                   of_head = curve(head);
  SizeOfModel size;
  size.step = [=](double n) { return of_blocks(n) + of_head(n); };
  size.all = [=, tied = settings.tied](double n) {
    return of_blocks(n) + of_head(n) + (tied ? 0 : of_embedding(n));
  };
  return size;
}

// Throws kUsage where deployment cannot have them, whatever the format.
void check_tables(const DeploymentSettings& settings) {
  for (const LlamaConfig& shape : preset_shapes(settings)) {
    packed_layout(shape, recipe_from_name("bf16"), settings.tables);
  }
}

std::optional<QuantRecipe> recipe_of(const std::string& format) {
  try {
    return recipe_from_name(format);
  } catch (const Error&) {
    return std::nullopt;
  }
}

double positive(const Json& json, const char* key, const std::string& where) {
  const double value = json_get<double>(json, key, where);
  QUEST_CHECK(std::isfinite(value) && value > 0, ErrorKind::kData, "{}: {} is {}, must be above 0",
              where, key, value);
  return value;
}

std::string value_text(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it == json.end() ? "not said" : it->dump();
}

MeasuredSpeed read_speed(const Json& json, const std::string& where) {
  MeasuredSpeed speed;
  speed.source = where;
  speed.recipe = json_get<std::string>(json, "recipe", where);
  const std::optional<QuantRecipe> recipe = recipe_of(speed.recipe);
  if (recipe) speed.recipe = recipe->name;
  speed.bytes_per_step = positive(json, "bytes_per_step", where);
  const double batch = json_get_or<double>(json, "batch", 1, where);
  QUEST_CHECK(batch >= 1, ErrorKind::kData, "{}: batch is {}, must be 1 or more", where, batch);
  speed.step_seconds = batch / positive(json, "decode_tokens_per_second", where);
  speed.operations_per_token = positive(json, "operations_per_token", where);
  speed.read_seconds = 1 / positive(json, "prefill_tokens_per_second", where);
  speed.conditions = fmt::format("threads {}, batch {:g}, depth {}, prompt {}, level {}",
                                 value_text(json, "threads"), batch, value_text(json, "depth"),
                                 value_text(json, "prompt"), value_text(json, "level"));
  return speed;
}

// Of one recipe, ascending by size: a larger model takes longer.
void check_order(const std::vector<MeasuredSpeed>& speeds) {
  for (size_t i = 1; i < speeds.size(); ++i) {
    const MeasuredSpeed& a = speeds[i - 1];
    const MeasuredSpeed& b = speeds[i];
    if (a.recipe != b.recipe) continue;
    QUEST_CHECK(
        b.bytes_per_step > a.bytes_per_step && b.operations_per_token > a.operations_per_token,
        ErrorKind::kData, "{} and {} are of {} and of one size: give one of them", a.source,
        b.source, a.recipe);
    QUEST_CHECK(b.step_seconds >= a.step_seconds && b.read_seconds >= a.read_seconds,
                ErrorKind::kData,
                "{}: a token of this larger model of {} took less time than one of {}; measure "
                "again, with nothing else running",
                b.source, b.recipe, a.source);
  }
}

}  // namespace

std::vector<MeasuredSpeed> read_speeds(const std::vector<std::string>& paths) {
  std::vector<MeasuredSpeed> speeds;
  for (const std::string& path : paths) {
    const Json json = read_json(path);
    if (!json.is_array()) {
      speeds.push_back(read_speed(json, path));
      continue;
    }
    for (size_t i = 0; i < json.size(); ++i) {
      speeds.push_back(read_speed(json[i], fmt::format("{} [{}]", path, i)));
    }
  }
  for (const MeasuredSpeed& speed : speeds) {
    QUEST_CHECK(speed.conditions == speeds.front().conditions, ErrorKind::kUsage,
                "{} was measured with {}, {} with {}: speeds of one plan need the same",
                speeds.front().source, speeds.front().conditions, speed.source, speed.conditions);
  }
  std::sort(speeds.begin(), speeds.end(), [](const MeasuredSpeed& a, const MeasuredSpeed& b) {
    return std::pair(a.recipe, a.operations_per_token) <
           std::pair(b.recipe, b.operations_per_token);
  });
  check_order(speeds);
  return speeds;
}

std::vector<double> preset_sizes(const DeploymentSettings& settings) {
  std::vector<double> sizes;
  for (const LlamaConfig& shape : preset_shapes(settings)) {
    sizes.push_back(static_cast<double>(shape.non_embedding_parameters()));
  }
  return sizes;
}

DeployedCosts deployed_costs(const std::string& format, const DeploymentSettings& settings,
                             const std::vector<MeasuredSpeed>& speeds) {
  check_tables(settings);
  DeployedCosts out;
  out.costs.format = format;
  const std::optional<QuantRecipe> recipe = recipe_of(format);
  if (!recipe) return out;
  out.weight_bits = storage_bits(recipe->weight);
  SizeOfModel size;
  try {
    size = size_of_model(*recipe, settings);
  } catch (const Error&) {  // no packed form
    return out;
  }
  out.costs.memory_bytes = size.all;
  std::vector<std::pair<double, double>> written, read;
  for (const MeasuredSpeed& speed : speeds) {
    if (speed.recipe != recipe->name) continue;
    written.emplace_back(speed.bytes_per_step, speed.bytes_per_step / speed.step_seconds);
    read.emplace_back(speed.operations_per_token, speed.operations_per_token / speed.read_seconds);
  }
  if (written.empty()) return out;
  const PowerCurve bytes_rate(written, PowerCurve::Beyond::kStays);
  const PowerCurve operations_rate(read, PowerCurve::Beyond::kStays);
  out.measured_sizes = {operations_rate.first() / 2, operations_rate.last() / 2};
  out.costs.decode_seconds = [=](double n) {
    const double bytes = size.step(n);
    return bytes / bytes_rate(bytes);
  };
  out.costs.prefill_seconds = [=](double n) { return 2 * n / operations_rate(2 * n); };
  return out;
}

}  // namespace quest::cli
