// docs/extend.md: its example is the program that is built, and the program works.
#include <string>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/json_util.h"
#include "quest/base/testing_command.h"
#include "quest/text/testing_text.h"

namespace {

using quest::read_file;

TEST(Extend, TheDocumentShowsTheExampleThatIsBuilt) {
  const std::string document = read_file(QUEST_SOURCE_DIR "/docs/extend.md");
  const std::string code = read_file(QUEST_SOURCE_DIR "/examples/my_quantizer.cpp");
  EXPECT_NE(document.find("```cpp\n" + code + "```\n"), std::string::npos)
      << "docs/extend.md does not hold examples/my_quantizer.cpp as it is";
}

TEST(Extend, AQuantizerOfOnesOwnTrains) {
  const quest::testing::TemporaryFolder folder;
  folder.write("a.txt", quest::testing::kSampleText);
  const auto run = [&](const std::string& arguments) {
    return quest::testing::run_command("cd " + folder.path().string() +
                                       " && \"" MY_QUEST_PROGRAM "\" " + arguments + " >out.txt");
  };
  ASSERT_EQ(run("data a.txt --tokenizer bytes --out data").code, 0);
  const std::string train =
      "train --data data --preset none --model.hidden_size 32 --model.num_layers 1 "
      "--model.num_heads 2 --batch 4 --sequence-length 32 --steps 4 --threads 1 --name own "
      "--quant ";
  const auto outcome = run(train + "w3a3_soft_hadamard");
  ASSERT_EQ(outcome.code, 0) << outcome.errors;
  const quest::Json summary = quest::read_json(folder / "runs" / "own" / "summary.json");
  EXPECT_EQ(summary["recipe"], "w3a3_soft_hadamard") << summary.dump(1);
  const auto wrong = run(train + "w9a9_soft");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.errors.find("w<b>a<c>_soft"), std::string::npos) << wrong.errors;
  EXPECT_EQ(run("export runs/own --out packed").code, 2);
  const auto hf = run("export runs/own --format hf --out hf");
  EXPECT_EQ(hf.code, 2);
  EXPECT_NE(hf.errors.find("soft3.hadamard, which can be trained"), std::string::npos) << hf.errors;
}

}  // namespace
