#include "quest/runtime/chat_template.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest {
namespace {

using quest::testing::TemporaryFolder;

const std::vector<ChatMessage> kTalk = {
    {"system", "Be kind."}, {"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}};

TEST(ChatTemplate, RendersEveryKind) {
  const auto rendered = [](const char* name) {
    return ChatTemplate(chat_kind_from_name(name)).render(kTalk);
  };
  EXPECT_EQ(rendered("plain"), "Be kind.\nUser: Hi\nAssistant: Hello.\nUser: Bye\nAssistant:");
  EXPECT_EQ(rendered("chatml"),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(rendered("llama2"),
            "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]");
  EXPECT_EQ(rendered("llama3"),
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(rendered("zephyr"),
            "<|system|>\nBe kind.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n"
            "<|user|>\nBye</s>\n<|assistant|>\n");
  EXPECT_EQ(rendered("gemma"),
            "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello."
            "<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(rendered("alpaca"),
            "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHello.\n\n### Instruction:\nBye\n\n"
            "### Response:\n");
  EXPECT_QUEST_ERROR(chat_kind_from_name("jinja"), ErrorKind::kUsage, "chatml, llama3");
}

TEST(ChatTemplate, RecognisesTemplatesByTheirMarks) {
  EXPECT_EQ(recognise_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}"),
            ChatKind::kChatMl);
  EXPECT_EQ(recognise_chat_template("{{ bos_token }}[INST] {{ x }} [/INST]"), ChatKind::kLlama2);
  EXPECT_EQ(recognise_chat_template("<|user|>\n<|assistant|>"), ChatKind::kZephyr);
  EXPECT_EQ(recognise_chat_template("something else"), std::nullopt);
  EXPECT_EQ(recognise_chat_template("<|user|>\n...<|end|>\n<|assistant|>"), std::nullopt);
}

TEST(ChatTemplate, EncodesDocumentMarksAsTokensAndTextAsText) {
  const auto bytes = make_byte_tokenizer();  // an end mark (256), no beginning mark
  const auto ids = ChatTemplate(ChatKind::kZephyr).encode(*bytes, {{"user", "Hi</s>"}});
  std::string text;
  int ends = 0;
  for (const int32_t id : ids) {
    if (id == 256) ++ends;
    text += bytes->token_bytes(id);
  }
  EXPECT_EQ(ends, 1);  // what the user writes never becomes a mark
  EXPECT_EQ(text, "<|user|>\nHi</s>\n<|assistant|>\n");
}

// A chat reads only what is new: a conversation that goes on begins with the same tokens.
TEST(ChatTemplate, LongerConversationsBeginAlike) {
  const auto bytes = make_byte_tokenizer();
  for (const char* name : {"plain", "chatml", "llama2", "llama3", "zephyr", "gemma", "alpaca"}) {
    const ChatTemplate chat(chat_kind_from_name(name));
    const auto shorter = chat.encode(*bytes, {kTalk[0], kTalk[1]});
    const auto longer = chat.encode(*bytes, kTalk);
    ASSERT_LT(shorter.size(), longer.size());
    EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), longer.begin())) << name;
  }
}

}  // namespace
}  // namespace quest
