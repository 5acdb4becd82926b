#include "quest/cli/model_folder.h"

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/cli/device_option.h"
#include "quest/model/checkpoint_files.h"
#include "quest/ops/gpu_errors.h"
#include "quest/train/allocator.h"
#include "quest/train/weights.h"

namespace quest::cli {

namespace {

// Ids of another tokenizer are read without complaint and mean other words.
void warn_of_another_tokenizer(const LoadedModel& loaded, const std::string& given) {
  if (!std::filesystem::exists(loaded.folder / "tokenizer_config.json")) return;
  std::string own;
  try {
    own = load_tokenizer(loaded.folder)->fingerprint();
  } catch (const Error&) {
    return;  // a kind of tokenizer that this program cannot read: --tokenizer is the way around it
  }
  if (own != loaded.tokenizer->fingerprint()) {
    log::warn("--tokenizer {} is another tokenizer than the one saved with the model in {}", given,
              loaded.folder.string());
  }
}

}  // namespace

LoadedModel load_model(const std::filesystem::path& folder, const LoadOptions& options) {
  train::keep_freed_memory();
  const nn::ComputeType compute = nn::compute_type_from_name(options.compute_type);
  const at::Device device = use_device(options.device);  // before files of gigabytes are read
  std::optional<QuantRecipe> given;
  if (!options.recipe.empty()) given = recipe_from_name(options.recipe);
  LoadedModel loaded;
  loaded.folder = find_model_folder(folder);
  if (std::filesystem::exists(loaded.folder / "checksums.json")) {
    verify_folder(loaded.folder);
  }
  const LlamaConfig config = load_llama_config(loaded.folder / "config.json", &loaded.trained);
  const QuantRecipe recipe = given.value_or(loaded.trained);
  loaded.tokenizer = load_tokenizer(
      options.tokenizer.empty() ? loaded.folder : std::filesystem::path(options.tokenizer));
  QUEST_CHECK(loaded.tokenizer->vocab_size() <= config.vocab_size, ErrorKind::kData,
              "{}: the tokenizer has {} tokens, the model {}: it is another model's tokenizer",
              loaded.folder.string(), loaded.tokenizer->vocab_size(), config.vocab_size);
  if (!options.tokenizer.empty()) warn_of_another_tokenizer(loaded, options.tokenizer);
  ops::with_gpu_errors(device, "the model's weights alone do not fit", [&] {
    loaded.model = std::make_unique<nn::LlamaModel>(config, recipe, compute, device);
    train::load_weights(*loaded.model, loaded.folder);
  });
  log::info("{}: {} ({} weights, {} activations), {:.2f} M parameters, computing in {}{}",
            loaded.folder.string(), recipe.name, to_string(recipe.weight),
            to_string(recipe.activation), static_cast<double>(config.parameters()) / 1e6,
            options.compute_type, device.is_cuda() ? " on the GPU" : "");
  const bool is_trained =
      recipe.weight == loaded.trained.weight && recipe.activation == loaded.trained.activation;
  if (!is_trained) log::info("rounded after training, which was {}", loaded.trained.name);
  return loaded;
}

}  // namespace quest::cli
