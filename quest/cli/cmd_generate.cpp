// quest generate: text from a trained model, token by token, as it comes.
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include <ATen/ops/from_blob.h>
#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/cli/model_folder.h"
#include "quest/cli/whole_numbers.h"
#include "quest/runtime/sampler.h"

namespace quest::cli {
namespace {

struct GenerateArguments {
  std::string model, tokenizer;
  std::string prompt, prompt_file;
  std::string compute_type = "bf16";
  std::string stop;
  int64_t tokens = 200;
  SamplerSettings sampler;
  bool ignore_end = false;
};

std::string read_prompt(const GenerateArguments& arguments) {
  QUEST_CHECK(arguments.prompt.empty() || arguments.prompt_file.empty(), ErrorKind::kUsage,
              "--prompt and --prompt-file exclude each other");
  if (arguments.prompt_file == "-") {
    return {std::istreambuf_iterator<char>(std::cin), {}};
  }
  return arguments.prompt_file.empty() ? arguments.prompt : read_file(arguments.prompt_file);
}

// The prompt's tokens; an empty prompt starts a document: at the beginning mark, or after an end
// mark.
std::vector<int32_t> prompt_tokens(const std::string& prompt, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty()) {
    const auto start = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.eos_id();
    QUEST_CHECK(
        start.has_value(), ErrorKind::kUsage,
        "the prompt is empty and this tokenizer has no token that starts a document; give a "
        "--prompt");
    ids.push_back(*start);
  }
  return ids;
}

at::Tensor last_logits(nn::LlamaModel& model, const std::vector<int32_t>& ids, nn::KvState& state) {
  std::vector<int64_t> wide(ids.begin(), ids.end());
  const at::Tensor tokens =
      at::from_blob(wide.data(), {1, static_cast<int64_t>(wide.size())}, at::kLong);
  return model.decode(tokens, state).contiguous();
}

// Prints text up to the stop string; true when it has been reached.
class StopFilter {
 public:
  explicit StopFilter(std::string stop) : stop_(std::move(stop)) {}

  bool write(const std::string& text) {
    if (stop_.empty()) {
      emit(text);
      return false;
    }
    held_ += text;
    if (const size_t at = held_.find(stop_); at != std::string::npos) {
      emit(held_.substr(0, at));
      held_.clear();
      return true;
    }
    // The longest end of held_ that may still become the stop string stays back.
    size_t keep = std::min(held_.size(), stop_.size() - 1);
    while (keep > 0 && held_.compare(held_.size() - keep, keep, stop_, 0, keep) != 0) {
      --keep;
    }
    emit(held_.substr(0, held_.size() - keep));
    held_.erase(0, held_.size() - keep);
    return false;
  }
  void finish() { emit(held_); }

 private:
  static void emit(const std::string& text) {
    const bool written =
        std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    QUEST_CHECK(written, ErrorKind::kIo, "cannot write to standard output: {}", errno_text(errno));
  }
  std::string stop_, held_;
};

void generate(const GenerateArguments& arguments, LoadedModel& loaded) {
  nn::LlamaModel& model = *loaded.model;
  const Tokenizer& tokenizer = *loaded.tokenizer;
  Sampler sampler(arguments.sampler);
  std::vector<int32_t> ids = prompt_tokens(read_prompt(arguments), tokenizer);
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
  StopFilter output(arguments.stop);
  for (const int32_t id : ids) {
    output.write(decoder.push(id));
  }
  nn::KvState state(model.config().num_layers);
  at::Tensor logits = last_logits(model, ids, state);
  const auto start = std::chrono::steady_clock::now();
  int64_t written = 0;
  while (written < wanted && shutdown_signal() == 0) {
    const std::span<const float> row(logits.data_ptr<float>(),
                                     static_cast<size_t>(tokenizer.vocab_size()));
    const int32_t next = sampler.sample(row, ids.size(), ids);
    ++written;
    if (!arguments.ignore_end && next == tokenizer.eos_id()) {
      break;
    }
    ids.push_back(next);
    if (output.write(decoder.push(next))) {
      break;
    }
    if (written < wanted) {
      logits = last_logits(model, {next}, state);
    }
  }
  output.write(decoder.flush());
  output.finish();
  fmt::print("\n");
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  log::info("{}, {:.1f} tokens/s", format_count(written, "token"),
            static_cast<double>(written) / seconds);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "write text with a trained model");
  auto arguments = std::make_shared<GenerateArguments>();
  SamplerSettings& sampler = arguments->sampler;
  command->add_option("MODEL", arguments->model, "checkpoint, run or Hugging Face Llama folder")
      ->required();
  command->add_option("--prompt", arguments->prompt, "text to go on from (default: none)");
  command->add_option("--prompt-file", arguments->prompt_file, "file with the prompt; - is stdin");
  command->add_option("--max-tokens", arguments->tokens, "tokens to write at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--temperature", sampler.temperature, "0: always the most probable token")
      ->capture_default_str();
  command->add_option("--top-k", sampler.top_k, "only the k most probable tokens (0: all)")
      ->capture_default_str();
  command->add_option("--top-p", sampler.top_p, "only the most probable tokens that hold this much")
      ->capture_default_str();
  command->add_option("--min-p", sampler.min_p, "at least this fraction of the largest probability")
      ->capture_default_str();
  command->add_option("--repetition-penalty", sampler.repetition_penalty, "1: none")
      ->capture_default_str();
  command->add_option("--seed", sampler.seed, "seed of the random draws")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_option("--stop", arguments->stop, "stop before this text");
  command->add_flag("--ignore-end", arguments->ignore_end,
                    "go on when the model ends the document");
  command->add_option("--tokenizer", arguments->tokenizer,
                      "tokenizer folder or file, or 'bytes' (default: the model's)");
  command->add_option("--compute", arguments->compute_type, "compute type")
      ->check(CLI::IsMember({"bf16", "fp32"}))
      ->capture_default_str();
  command->callback([arguments] {
    validate(arguments->sampler);
    install_shutdown_handlers();
    LoadedModel loaded =
        load_model(arguments->model, arguments->compute_type, arguments->tokenizer);
    generate(*arguments, loaded);
  });
}

}  // namespace quest::cli
