// quest generate: text from a trained model, token by token, as it comes.
#include <chrono>
#include <memory>
#include <string>

#include <ATen/ops/from_blob.h>
#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/cli/device_option.h"
#include "quest/cli/model_folder.h"
#include "quest/cli_run/sampler_options.h"
#include "quest/ops/gpu_errors.h"
#include "quest/runtime/generator.h"
#include "quest/runtime/sampler.h"
#include "quest/runtime/stop_filter.h"

namespace quest::cli {
namespace {

struct GenerateArguments {
  std::string model;
  LoadOptions load;
  PromptArguments prompt;
  std::vector<std::string> stop;
  int64_t tokens = 200;
  SamplerSettings sampler;
  bool ignore_end = false;
};

at::Tensor last_logits(nn::LlamaModel& model, const std::vector<int32_t>& ids, nn::KvState& state) {
  std::vector<int64_t> wide(ids.begin(), ids.end());
  const at::Tensor tokens =
      at::from_blob(wide.data(), {1, static_cast<int64_t>(wide.size())}, at::kLong);
  return ops::with_gpu_errors(model.device(), "a shorter prompt needs less",
                              [&] { return model.decode(tokens, state).contiguous(); });
}

void generate(const GenerateArguments& arguments, LoadedModel& loaded) {
  nn::LlamaModel& model = *loaded.model;
  const Tokenizer& tokenizer = *loaded.tokenizer;
  Sampler sampler(arguments.sampler);
  std::vector<int32_t> ids = encode_prompt(tokenizer, read_prompt(arguments.prompt));
  const int64_t room = model.config().max_position_embeddings - static_cast<int64_t>(ids.size());
  QUEST_CHECK(room > 0, ErrorKind::kUsage,
              "the prompt has {} tokens, the model reads at most {} (max_position_embeddings)",
              ids.size(), model.config().max_position_embeddings);
  const int64_t wanted = std::min(arguments.tokens, room);
  if (wanted < arguments.tokens) {
    log::warn("writing {} instead of {}: the model's context ends there",
              format_count(wanted, "token"), arguments.tokens);
  }
  StreamingDecoder decoder(tokenizer);
  StopFilter filter(arguments.stop);
  for (const int32_t id : ids) {
    print_now(decoder.push(id));
  }
  nn::KvState state(model.config().num_layers);
  at::Tensor logits = last_logits(model, ids, state);
  const auto start = std::chrono::steady_clock::now();
  int64_t written = 0;
  EndReason reason = wanted < arguments.tokens ? EndReason::kContextFull : EndReason::kMaxTokens;
  while (written < wanted) {
    if (shutdown_signal() != 0) {
      reason = EndReason::kCancelled;
      break;
    }
    const std::span<const float> row(logits.data_ptr<float>(),
                                     static_cast<size_t>(tokenizer.vocab_size()));
    const int32_t next = sampler.sample(row, ids.size(), ids);
    ++written;
    if (!arguments.ignore_end && next == tokenizer.eos_id()) {
      reason = EndReason::kEndToken;
      break;
    }
    ids.push_back(next);
    print_now(filter.push(decoder.push(next)));
    if (filter.stopped()) {
      reason = EndReason::kStopString;
      break;
    }
    if (written < wanted) {
      logits = last_logits(model, {next}, state);
    }
  }
  print_now(filter.push(decoder.flush()));
  print_now(filter.flush());
  print_now("\n");  // before the log's line, also where both go into one pipe
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  log::info("{}, {:.1f} tokens/s; end: {}", format_count(written, "token"),
            static_cast<double>(written) / seconds, end_reason_name(reason));
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "write text with a trained model");
  auto arguments = std::make_shared<GenerateArguments>();
  command->add_option("MODEL", arguments->model, "checkpoint, run or Hugging Face Llama folder")
      ->required();
  add_prompt_options(*command, arguments->prompt);
  command->add_option("--max-tokens", arguments->tokens, "tokens to write at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  add_sampler_options(*command, arguments->sampler);
  add_logit_bias_option(*command, arguments->sampler);
  add_stop_option(*command, arguments->stop);
  command->add_flag("--ignore-end", arguments->ignore_end,
                    "go on when the model ends the document");
  command->add_option("--tokenizer", arguments->load.tokenizer,
                      "tokenizer folder or file, or 'bytes' (default: the model's)");
  command->add_option("--compute", arguments->load.compute_type, "compute type")
      ->check(CLI::IsMember({"bf16", "fp32"}))
      ->capture_default_str();
  add_device_option(*command, arguments->load.device);
  command->callback([arguments] {
    validate(arguments->sampler);
    install_shutdown_handlers();
    LoadedModel loaded = load_model(arguments->model, arguments->load);
    generate(*arguments, loaded);
  });
}

}  // namespace quest::cli
