#include "quest/cli_run/chat_session.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/white_space.h"

namespace quest::cli {
namespace {

constexpr std::string_view kSpaces = " \t\n";  // around an argument or an answer

template <class T>
T number_from(const std::string& command, const std::string& text) {
  T value{};
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  QUEST_CHECK(error == std::errc() && rest == text.data() + text.size() && !text.empty(),
              ErrorKind::kUsage, "{} takes a number, '{}' is none", command, text);
  return value;
}

}  // namespace

ChatSession::ChatSession(Generator& generator, const Tokenizer& tokenizer, int64_t context,
                         GenerationSettings settings, ChatTemplate chat_template,
                         std::string system)
    : generator_(generator),
      tokenizer_(tokenizer),
      context_(context),
      settings_(std::move(settings)),
      template_(chat_template),
      system_(std::move(system)) {
  const auto stops = template_.stops();
  settings_.stop.insert(settings_.stop.end(), stops.begin(), stops.end());
  settings_.end_tokens = template_.end_tokens(tokenizer_);
}

std::vector<int32_t> ChatSession::fitting_prompt() {
  // Room for an answer: as long as asked for, but at least half the context stays for what was
  // said.
  const int64_t room = context_ - std::min(settings_.max_tokens, context_ / 2);
  for (size_t skip = 0;; ++skip) {
    std::vector<ChatMessage> shown;
    if (!system_.empty()) shown.push_back({"system", system_});
    shown.insert(shown.end(), messages_.begin() + static_cast<std::ptrdiff_t>(skip),
                 messages_.end());
    // What is left begins with the user, as the templates expect.
    if (skip > 0 && messages_[skip].role != "user") continue;
    std::vector<int32_t> ids = template_.encode(tokenizer_, shown);
    left_out_ = static_cast<int64_t>(skip);
    if (static_cast<int64_t>(ids.size()) <= room || skip + 1 >= messages_.size()) return ids;
  }
}

void ChatSession::answer(const TextSink& sink) {
  last_ = generator_.generate(fitting_prompt(), settings_, sink);
  messages_.push_back({"assistant", std::string(trimmed(last_.text, kSpaces))});
}

void ChatSession::say(const std::string& text, const TextSink& sink) {
  messages_.push_back({"user", text});
  try {
    answer(sink);
  } catch (...) {
    messages_.pop_back();  // what could not be answered was not said
    throw;
  }
}

void ChatSession::undo() {
  QUEST_CHECK(!messages_.empty(), ErrorKind::kUsage, "nothing has been said yet");
  while (!messages_.empty() && messages_.back().role != "user") messages_.pop_back();
  if (!messages_.empty()) messages_.pop_back();
}

void ChatSession::retry(const TextSink& sink) {
  QUEST_CHECK(!messages_.empty(), ErrorKind::kUsage, "nothing has been said yet");
  while (messages_.back().role != "user") messages_.pop_back();
  ++settings_.sampler.seed;
  answer(sink);
}

std::string ChatSession::help() {
  return "/help               this list\n"
         "/reset              forget the conversation\n"
         "/undo               take back the last message and its answer\n"
         "/retry              another answer to the last message\n"
         "/system [TEXT]      show or set the system's text; forgets the conversation\n"
         "/temperature [X]    show or set; 0: always the most probable token\n"
         "/max-tokens [N]     show or set the longest answer\n"
         "/seed [N]           show or set the seed of the random draws\n"
         "/save FILE          write the conversation as text\n"
         "/stats              speed of the last answer\n"
         "/exit               end (also Ctrl-D, or Ctrl-C twice)\n"
         "Ctrl-C interrupts an answer. A line that ends with \\ goes on in the next one.\n";
}

ChatSession::Next ChatSession::command(const std::string& line, std::string& out,
                                       const TextSink& sink) {
  const size_t space = line.find(' ');
  const std::string name = line.substr(0, space);
  const std::string argument(
      space == std::string::npos ? "" : trimmed(std::string_view(line).substr(space), kSpaces));
  if (name == "/exit" || name == "/quit") return Next::kEnd;
  if (name == "/help") {
    out = help();
  } else if (name == "/reset") {
    reset();
    out = "The conversation is forgotten.\n";
  } else if (name == "/undo") {
    undo();
    out =
        fmt::format("{} left.\n", format_count(static_cast<int64_t>(messages_.size()), "message"));
  } else if (name == "/retry") {
    retry(sink);
  } else if (name == "/system") {
    if (!argument.empty()) {
      system_ = argument;
      reset();
    }
    out = system_.empty() ? "There is no system text.\n" : system_ + "\n";
  } else if (name == "/temperature") {
    if (!argument.empty()) {
      SamplerSettings changed = settings_.sampler;
      changed.temperature = number_from<double>(name, argument);
      validate(changed);
      settings_.sampler = changed;
    }
    out = fmt::format("temperature {}\n", settings_.sampler.temperature);
  } else if (name == "/max-tokens") {
    if (!argument.empty()) {
      const auto tokens = number_from<int64_t>(name, argument);
      QUEST_CHECK(tokens >= 1, ErrorKind::kUsage, "max-tokens is {}, allowed are 1 and more",
                  tokens);
      settings_.max_tokens = tokens;
    }
    out = fmt::format("max-tokens {}\n", settings_.max_tokens);
  } else if (name == "/seed") {
    if (!argument.empty()) settings_.sampler.seed = number_from<uint64_t>(name, argument);
    out = fmt::format("seed {}\n", settings_.sampler.seed);
  } else if (name == "/save") {
    QUEST_CHECK(!argument.empty(), ErrorKind::kUsage, "/save takes the name of a file");
    std::string text = system_.empty() ? "" : "System: " + system_ + "\n\n";
    for (const ChatMessage& m : messages_) {
      text += (m.role == "user" ? "User: " : "Assistant: ") + m.text + "\n\n";
    }
    write_file_atomically(argument, text);
    out = "written to " + argument + "\n";
  } else if (name == "/stats") {
    const GenerationStatistics& s = last_.statistics;
    out =
        fmt::format("read {} ({} from before) at {:.1f} tokens/s, wrote {} at {:.1f} tokens/s\n",
                    format_count(s.prompt_tokens, "token"), s.reused_tokens,
                    s.prefill_tokens_per_second(), s.written_tokens, s.decode_tokens_per_second());
  } else {
    QUEST_THROW(ErrorKind::kUsage, "there is no command {}; /help lists them", name);
  }
  return Next::kGoOn;
}

}  // namespace quest::cli
