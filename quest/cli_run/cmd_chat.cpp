// quest-run chat: a conversation with a packed model in the terminal.
#include <csignal>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/shutdown.h"
#include "quest/cli_run/chat_session.h"
#include "quest/cli_run/commands.h"
#include "quest/cli_run/line_editor.h"
#include "quest/cli_run/sampler_options.h"
#include "quest/text/tokenizer_config.h"

namespace quest::cli {
namespace {

struct ChatArguments {
  EngineArguments engine;
  GenerationSettings settings;
  std::string system, chat_template = "auto";
};

ChatKind find_kind(const ChatArguments& arguments, const std::filesystem::path& folder) {
  if (arguments.chat_template != "auto") return chat_kind_from_name(arguments.chat_template);
  const auto text = read_chat_template(folder);
  if (!text) return ChatKind::kPlain;
  const auto kind = recognise_chat_template(*text);
  if (!kind) {
    log::warn(
        "the chat_template of {} is none of those known: writing User: and Assistant: instead "
        "(--chat-template names one: chatml, llama2, llama3, zephyr, gemma, alpaca, plain)",
        folder.string());
  }
  return kind.value_or(ChatKind::kPlain);
}

// Ends the answer that is being written; the program goes on after Ctrl-C.
bool take_interrupt() {
  if (shutdown_signal() != SIGINT) return false;
  reset_shutdown_signal();
  return true;
}

void talk(ChatSession& chat, LineEditor& editor) {
  bool begins_line = true;
  int64_t left_out = 0;
  const TextSink sink = [&](std::string_view text) {
    if (!text.empty()) {
      print_now(begins_line ? text.substr(std::min(text.find_first_not_of(' '), text.size()))
                            : text);
      begins_line = false;
    }
    return shutdown_signal() == 0;
  };
  while (true) {
    if (editor.is_terminal()) take_interrupt();  // of an answer that was just done
    const auto line = editor.read("> ");
    if (!line) break;
    if (line->find_first_not_of(" \t\n") == std::string::npos) continue;
    begins_line = true;
    const bool is_command = line->front() == '/';
    std::string out;
    try {
      if (is_command) {
        if (chat.command(*line, out, sink) == ChatSession::Next::kEnd) break;
      } else {
        chat.say(*line, sink);
      }
    } catch (const Error& error) {
      // /save may name an impossible place; an answer that cannot be shown ends the program.
      const bool goes_on =
          error.kind() == ErrorKind::kUsage || (error.kind() == ErrorKind::kIo && is_command);
      if (!goes_on) throw;
      log::error("{}", error.what());
      continue;
    }
    print_now(out);
    if (!begins_line) print_now("\n");
    if (take_interrupt()) log::warn("interrupted");
    if (chat.left_out() > left_out) {
      log::warn("the context is full: the model no longer reads the first {} messages",
                chat.left_out());
    }
    left_out = chat.left_out();
  }
}

void run_chat(const RunOptions& options, ChatArguments& arguments) {
  validate(arguments.settings.sampler);
  install_shutdown_handlers();
  LoadedEngine loaded = load_engine(options, arguments.engine);
  Generator generator(*loaded.engine, *loaded.tokenizer);
  const ChatKind kind = find_kind(arguments, loaded.folder);
  ChatSession chat(generator, *loaded.tokenizer, loaded.engine->context_length(),
                   arguments.settings, ChatTemplate(kind), arguments.system);
  LineEditor editor;
  if (editor.is_terminal()) {
    log::info("chat template {}; /help lists the commands", chat_kind_name(kind));
  }
  talk(chat, editor);
}

}  // namespace

void add_run_chat_command(CLI::App& app, SharedOptions options) {
  CLI::App* command = app.add_subcommand("chat", "talk with a packed model");
  auto arguments = std::make_shared<ChatArguments>();
  arguments->settings.max_tokens = 512;
  arguments->settings.sampler.temperature = 0.7;
  arguments->settings.sampler.top_p = 0.95;
  add_engine_options(*command, arguments->engine);
  command->add_option("--system", arguments->system, "what the model is told before all else");
  command
      ->add_option("--chat-template", arguments->chat_template,
                   "auto (the folder's), plain, chatml, llama2, llama3, zephyr, gemma, alpaca")
      ->capture_default_str();
  command->add_option("--max-tokens", arguments->settings.max_tokens, "tokens of an answer at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  add_sampler_options(*command, arguments->settings.sampler);
  add_logit_bias_option(*command, arguments->settings.sampler);
  add_stop_option(*command, arguments->settings.stop);
  command->callback([options, arguments] { run_chat(*options, *arguments); });
}

}  // namespace quest::cli
