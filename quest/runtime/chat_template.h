// How a conversation becomes the tokens of a prompt.
//
// A folder's tokenizer_config.json may hold a chat_template, a Jinja program (or
// chat_template.jinja is one). Such programs are not run: of the common ones the kind is recognised
// by the marks in it.
//
//   kind      recognised by          a turn
//   chatml    <|im_start|>           <|im_start|>user\n...<|im_end|>\n
//   llama3    <|start_header_id|>    <|start_header_id|>user<|end_header_id|>\n\n...<|eot_id|>
//   llama2    [INST]                 <s>[INST] ... [/INST] ...</s>; <<SYS>> for the system's text
//   zephyr    <|assistant|>          <|user|>\n...</s>\n
//   gemma     <start_of_turn>        <start_of_turn>user\n...<end_of_turn>\n
//   alpaca    ### Instruction:       ### Instruction:\n...\n\n### Response:\n...\n\n
//   plain     there is no template   User: ...\nAssistant: ...\n
//
// Marks that are tokens of the vocabulary are written as those tokens, others as text.
//
//   const auto text = read_chat_template(folder);          // quest/text/tokenizer_config.h
//   const ChatTemplate chat(recognise_chat_template(*text).value_or(ChatKind::kPlain));
//   std::vector<int32_t> ids = chat.encode(tokenizer, {{"user", "Who are you?"}});
//   settings.stop = chat.stops();
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quest/text/tokenizer.h"

namespace quest {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string text;

  bool operator==(const ChatMessage&) const = default;
};

enum class ChatKind { kPlain, kChatMl, kLlama3, kLlama2, kZephyr, kGemma, kAlpaca };
std::string_view chat_kind_name(ChatKind kind);
ChatKind chat_kind_from_name(std::string_view name);  // throws kUsage and lists what exists

// Nothing if the template is none of those above.
std::optional<ChatKind> recognise_chat_template(std::string_view chat_template);

class ChatTemplate {
 public:
  explicit ChatTemplate(ChatKind kind) : kind_(kind) {}

  ChatKind kind() const { return kind_; }
  // The conversation as text, up to where the assistant's next answer begins; document marks are
  // written <s> and </s>.
  std::string render(const std::vector<ChatMessage>& messages) const;
  // The same as tokens.
  std::vector<int32_t> encode(const Tokenizer& tokenizer,
                              const std::vector<ChatMessage>& messages) const;
  // Texts that end an answer.
  std::vector<std::string> stops() const;
  // Tokens that end an answer: the template's marks that the vocabulary has as tokens.
  std::vector<int32_t> end_tokens(const Tokenizer& tokenizer) const;

 private:
  struct Piece {
    std::string text;
    bool is_mark = false;
  };
  std::vector<Piece> pieces(const std::vector<ChatMessage>& messages) const;

  ChatKind kind_;
};

}  // namespace quest
