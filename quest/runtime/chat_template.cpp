#include "quest/runtime/chat_template.h"

#include <array>
#include <map>
#include <utility>

#include "quest/base/error.h"

namespace quest {
namespace {

struct KindInfo {
  ChatKind kind;
  const char* name;
  const char* mark;  // in a template of this kind; null: never recognised
};
// Looked for from top to bottom.
constexpr std::array<KindInfo, 7> kKinds = {{
    {ChatKind::kChatMl, "chatml", "<|im_start|>"},
    {ChatKind::kLlama3, "llama3", "<|start_header_id|>"},
    {ChatKind::kGemma, "gemma", "<start_of_turn>"},
    {ChatKind::kZephyr, "zephyr", "<|assistant|>"},
    {ChatKind::kLlama2, "llama2", "[INST]"},
    {ChatKind::kAlpaca, "alpaca", "### Instruction:"},
    {ChatKind::kPlain, "plain", nullptr},
}};

constexpr const char* kBegin = "<s>";
constexpr const char* kEnd = "</s>";

// The id of a token that is written like this, if the vocabulary has one.
std::optional<int32_t> find_token(const Tokenizer& tokenizer, std::string_view name) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.token_name(id) == name) return id;
  }
  return std::nullopt;
}

// Document marks are the tokenizer's own, whatever it calls them.
std::optional<int32_t> mark_token(const Tokenizer& tokenizer, const std::string& mark) {
  if (mark == kBegin) return tokenizer.bos_id();
  if (mark == kEnd) return tokenizer.eos_id();
  return find_token(tokenizer, mark);
}

}  // namespace

std::string_view chat_kind_name(ChatKind kind) {
  for (const KindInfo& info : kKinds) {
    if (info.kind == kind) return info.name;
  }
  return "unknown";
}

ChatKind chat_kind_from_name(std::string_view name) {
  std::string names;
  for (const KindInfo& info : kKinds) {
    if (info.name == name) return info.kind;
    names += (names.empty() ? "" : ", ") + std::string(info.name);
  }
  QUEST_THROW(ErrorKind::kUsage, "there is no chat template '{}', there are {}", name, names);
}

std::optional<ChatKind> recognise_chat_template(std::string_view chat_template) {
  // Phi-3's has zephyr's marks, but other ends of turns.
  if (chat_template.find("<|end|>") != std::string_view::npos) return std::nullopt;
  for (const KindInfo& info : kKinds) {
    if (info.mark != nullptr && chat_template.find(info.mark) != std::string_view::npos) {
      return info.kind;
    }
  }
  return std::nullopt;
}

std::vector<ChatTemplate::Piece> ChatTemplate::pieces(
    const std::vector<ChatMessage>& messages) const {
  std::vector<Piece> all;
  const auto text = [&](std::string value) { all.push_back({std::move(value), false}); };
  const auto mark = [&](const char* value) { all.push_back({value, true}); };
  std::string system;  // of the kinds that put it into the first user turn
  if (kind_ == ChatKind::kLlama3 || kind_ == ChatKind::kGemma) mark(kBegin);
  for (const ChatMessage& m : messages) {
    const bool is_user = m.role == "user", is_system = m.role == "system";
    switch (kind_) {
      case ChatKind::kChatMl:
        mark("<|im_start|>");
        text(m.role + "\n" + m.text);
        mark("<|im_end|>");
        text("\n");
        break;
      case ChatKind::kLlama3:
        mark("<|start_header_id|>");
        text(m.role);
        mark("<|end_header_id|>");
        text("\n\n" + m.text);
        mark("<|eot_id|>");
        break;
      case ChatKind::kZephyr:
        text("<|" + m.role + "|>\n" + m.text);
        mark(kEnd);
        text("\n");
        break;
      case ChatKind::kGemma:
        if (is_system) {
          system = m.text + "\n\n";
          break;
        }
        mark("<start_of_turn>");
        text((is_user ? "user\n" + std::exchange(system, {}) : std::string("model\n")) + m.text);
        mark("<end_of_turn>");
        text("\n");
        break;
      case ChatKind::kLlama2:
        if (is_system) {
          system = "<<SYS>>\n" + m.text + "\n<</SYS>>\n\n";
        } else if (is_user) {
          mark(kBegin);
          text("[INST] " + std::exchange(system, {}) + m.text + " [/INST]");
        } else {
          text(" " + m.text + " ");
          mark(kEnd);
        }
        break;
      case ChatKind::kAlpaca:
        text(is_system ? m.text + "\n\n"
                       : (is_user ? "### Instruction:\n" : "### Response:\n") + m.text + "\n\n");
        break;
      case ChatKind::kPlain:
        text(is_system ? m.text + "\n" : (is_user ? "User: " : "Assistant: ") + m.text + "\n");
        break;
    }
  }
  switch (kind_) {  // where the answer begins
    case ChatKind::kChatMl:
      mark("<|im_start|>");
      text("assistant\n");
      break;
    case ChatKind::kLlama3:
      mark("<|start_header_id|>");
      text("assistant");
      mark("<|end_header_id|>");
      text("\n\n");
      break;
    case ChatKind::kZephyr:
      text("<|assistant|>\n");
      break;
    case ChatKind::kGemma:
      mark("<start_of_turn>");
      text("model\n");
      break;
    case ChatKind::kAlpaca:
      text("### Response:\n");
      break;
    case ChatKind::kPlain:
      text("Assistant:");
      break;
    case ChatKind::kLlama2:
      break;
  }
  return all;
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages) const {
  std::string text;
  for (const Piece& piece : pieces(messages)) text += piece.text;
  return text;
}

std::vector<int32_t> ChatTemplate::encode(const Tokenizer& tokenizer,
                                          const std::vector<ChatMessage>& messages) const {
  std::vector<int32_t> ids;
  std::map<std::string, std::optional<int32_t>> marks;
  std::string text;  // not yet encoded
  const auto flush = [&] {
    if (text.empty()) return;
    const auto more = ids.empty() ? tokenizer.encode(text) : tokenizer.encode_continuation(text);
    ids.insert(ids.end(), more.begin(), more.end());
    text.clear();
  };
  for (const Piece& piece : pieces(messages)) {
    if (piece.is_mark) {
      const auto [it, is_new] = marks.try_emplace(piece.text);
      if (is_new) it->second = mark_token(tokenizer, piece.text);
      if (it->second) {
        flush();
        ids.push_back(*it->second);
        continue;
      }
      // A vocabulary without document marks goes without them.
      if (piece.text == kBegin || piece.text == kEnd) continue;
    }
    text += piece.text;
  }
  flush();
  return ids;
}

std::vector<std::string> ChatTemplate::stops() const {
  switch (kind_) {
    case ChatKind::kChatMl:
      return {"<|im_end|>"};
    case ChatKind::kLlama3:
      return {"<|eot_id|>"};
    case ChatKind::kZephyr:
      return {"<|user|>", "<|system|>", "<|assistant|>"};
    case ChatKind::kGemma:
      return {"<end_of_turn>"};
    case ChatKind::kLlama2:
      return {"[INST]"};
    case ChatKind::kAlpaca:
      return {"### Instruction:"};
    case ChatKind::kPlain:
      return {"\nUser:"};
  }
  return {};
}

std::vector<int32_t> ChatTemplate::end_tokens(const Tokenizer& tokenizer) const {
  std::vector<int32_t> ids;
  for (const std::string& stop : stops()) {
    if (const auto id = find_token(tokenizer, stop)) ids.push_back(*id);
  }
  return ids;
}

}  // namespace quest
