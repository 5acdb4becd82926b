#include "quest/cli_run/chat_session.h"

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/runtime/counting_engine_testing.h"

namespace quest::cli {
namespace {

class ChatSessionTest : public ::testing::Test {
 protected:
  ChatSessionTest() {
    settings.sampler.temperature = 0;
    settings.max_tokens = 4;
    engine.script[':'] = 'p';  // "Assistant:" is answered with "pqrs"
  }
  ChatSession make(const std::string& system = "") {
    return {
        generator, *tokenizer, engine.context_length(), settings, ChatTemplate(ChatKind::kPlain),
        system};
  }
  std::string command(ChatSession& chat, const std::string& line) {
    std::string out;
    chat.command(line, out, sink);
    return out;
  }

  testing::CountingEngine engine{257, 100};
  std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
  Generator generator{engine, *tokenizer};
  GenerationSettings settings;
  std::string shown;
  TextSink sink = [this](std::string_view text) {
    shown += text;
    return true;
  };
};

TEST_F(ChatSessionTest, KeepsTheConversation) {
  ChatSession chat = make("Be kind.");
  chat.say("Hi", sink);
  EXPECT_EQ(shown, "pqrs");
  EXPECT_EQ(chat.messages(), (std::vector<ChatMessage>{{"user", "Hi"}, {"assistant", "pqrs"}}));
  chat.say("Bye", sink);
  EXPECT_EQ(chat.messages().size(), 4u);
  // Only what is new was read: the answer "pqrs" stands after "Assistant: " now.
  EXPECT_GT(chat.last().statistics.reused_tokens, 20);
  EXPECT_EQ(command(chat, "/undo"), "2 messages left.\n");
  const uint64_t seed = chat.settings().sampler.seed;
  command(chat, "/retry");
  EXPECT_EQ(chat.messages().size(), 2u);
  EXPECT_EQ(chat.settings().sampler.seed, seed + 1);
  command(chat, "/reset");
  EXPECT_TRUE(chat.messages().empty());
  EXPECT_QUEST_ERROR(command(chat, "/undo"), ErrorKind::kUsage, "nothing");
  EXPECT_QUEST_ERROR(command(chat, "/retry"), ErrorKind::kUsage, "nothing");
}

TEST_F(ChatSessionTest, LeavesOutTheOldestWhenTheContextIsFull) {
  ChatSession chat = make("S");
  for (int i = 0; i < 6; ++i) chat.say("message number " + std::to_string(i), sink);
  EXPECT_GT(chat.left_out(), 0);
  EXPECT_EQ(chat.left_out() % 2, 0);
  EXPECT_EQ(chat.messages().size(), 12u);
  EXPECT_QUEST_ERROR(chat.say(std::string(200, 'x'), sink), ErrorKind::kUsage, "context");
  EXPECT_EQ(chat.messages().size(), 12u);
}

TEST_F(ChatSessionTest, CommandsShowAndSet) {
  const testing::TemporaryFolder folder;
  ChatSession chat = make();
  std::string out;
  EXPECT_EQ(chat.command("/exit", out, sink), ChatSession::Next::kEnd);
  EXPECT_EQ(command(chat, "/temperature 0.5"), "temperature 0.5\n");
  EXPECT_EQ(command(chat, "/temperature"), "temperature 0.5\n");
  EXPECT_QUEST_ERROR(command(chat, "/temperature -1"), ErrorKind::kUsage, "-1");
  EXPECT_QUEST_ERROR(command(chat, "/temperature warm"), ErrorKind::kUsage, "'warm'");
  EXPECT_EQ(command(chat, "/max-tokens 7"), "max-tokens 7\n");
  EXPECT_QUEST_ERROR(command(chat, "/max-tokens 0"), ErrorKind::kUsage, "0");
  EXPECT_EQ(command(chat, "/system You are kind."), "You are kind.\n");
  EXPECT_EQ(chat.system(), "You are kind.");
  chat.say("Hi", sink);
  const std::string path = (folder / "talk.txt").string();
  command(chat, "/save " + path);
  EXPECT_NE(read_file(path).find("User: Hi\n\nAssistant: "), std::string::npos);
  EXPECT_NE(command(chat, "/help").find("/retry"), std::string::npos);
  EXPECT_NE(command(chat, "/stats").find("wrote"), std::string::npos);
  EXPECT_QUEST_ERROR(command(chat, "/frob"), ErrorKind::kUsage, "/frob");
}

}  // namespace
}  // namespace quest::cli
