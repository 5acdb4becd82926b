// A conversation with a model: messages, commands that begin with /, and what fits the context.
//
//   ChatSession chat(generator, tokenizer, engine.context_length(), settings, ChatTemplate(kind));
//   chat.say("Who are you?", print);
#pragma once

#include <string>
#include <vector>

#include "quest/runtime/chat_template.h"
#include "quest/runtime/generator.h"

namespace quest::cli {

class ChatSession {
 public:
  ChatSession(Generator& generator, const Tokenizer& tokenizer, int64_t context,
              GenerationSettings settings, ChatTemplate chat_template, std::string system);

  // Adds a message, hands out the answer as it comes and keeps it, also one that was interrupted.
  // Where the conversation does not fit, the oldest messages are left out of what the model reads.
  void say(const std::string& text, const TextSink& sink);
  // Again from the last message, with another draw. Throws kUsage if there is none.
  void retry(const TextSink& sink);
  // Takes back the last message and its answer. Throws kUsage if there is none.
  void undo();
  void reset() {
    messages_.clear();
    left_out_ = 0;
  }

  enum class Next { kGoOn, kEnd };
  // A line that begins with /: what to print goes to `out`. Throws kUsage for an unknown one or
  // wrong arguments.
  Next command(const std::string& line, std::string& out, const TextSink& sink);
  static std::string help();

  const std::vector<ChatMessage>& messages() const { return messages_; }
  const std::string& system() const { return system_; }
  const GenerationSettings& settings() const { return settings_; }
  const Generation& last() const { return last_; }
  int64_t left_out() const { return left_out_; }  // messages, at the last answer

 private:
  void answer(const TextSink& sink);
  std::vector<int32_t> fitting_prompt();

  Generator& generator_;
  const Tokenizer& tokenizer_;
  int64_t context_;
  GenerationSettings settings_;
  ChatTemplate template_;
  std::string system_;
  std::vector<ChatMessage> messages_;
  Generation last_;
  int64_t left_out_ = 0;
};

}  // namespace quest::cli
