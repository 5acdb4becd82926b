// quest-run generate: text from a packed model, token by token, as it comes.
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli_run/commands.h"
#include "quest/cli_run/sampler_options.h"
#include "quest/runtime/generator.h"
#include "quest/text/utf8.h"

namespace quest::cli {
namespace {

struct GenerateArguments {
  EngineArguments engine;
  PromptArguments prompt;
  GenerationSettings settings;
};

// Bytes that are no UTF-8 stay only where bytes are tokens.
void repair_prompt(std::string& prompt, const Tokenizer& tokenizer) {
  if (tokenizer.kind() == "bytes") return;
  const int64_t replaced = sanitize_utf8(prompt);
  if (replaced == 0) return;
  log::warn("the prompt is no UTF-8 text: {} replaced by U+FFFD", format_count(replaced, "byte"));
}

void run_generate(const RunOptions& options, GenerateArguments& arguments) {
  validate(arguments.settings.sampler);
  std::string prompt = read_prompt(arguments.prompt);
  install_shutdown_handlers();
  LoadedEngine loaded = load_engine(options, arguments.engine);
  repair_prompt(prompt, *loaded.tokenizer);
  Generator generator(*loaded.engine, *loaded.tokenizer);
  const Generation result = generator.generate(encode_prompt(*loaded.tokenizer, prompt),
                                               arguments.settings, [](std::string_view text) {
                                                 if (!text.empty()) print_now(text);
                                                 return shutdown_signal() == 0;
                                               });
  print_now("\n");
  const GenerationStatistics& s = result.statistics;
  log::info("{} read at {:.1f} tokens/s, {} written at {:.1f} tokens/s; end: {}",
            format_count(s.prompt_tokens, "token"), s.prefill_tokens_per_second(), s.written_tokens,
            s.decode_tokens_per_second(), end_reason_name(result.reason));
}

}  // namespace

void add_run_generate_command(CLI::App& app, SharedOptions options) {
  CLI::App* command = app.add_subcommand("generate", "write text with a packed model");
  auto arguments = std::make_shared<GenerateArguments>();
  GenerationSettings& settings = arguments->settings;
  settings.echo = true;
  add_engine_options(*command, arguments->engine);
  add_prompt_options(*command, arguments->prompt);
  command->add_option("--max-tokens", settings.max_tokens, "tokens to write at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  add_sampler_options(*command, settings.sampler);
  add_logit_bias_option(*command, settings.sampler);
  add_stop_option(*command, settings.stop);
  command->add_flag("--ignore-end", settings.ignore_end, "go on when the model ends the document");
  command->add_flag("!--no-echo", settings.echo, "do not write the prompt before the text");
  command->callback([options, arguments] { run_generate(*options, *arguments); });
}

}  // namespace quest::cli
