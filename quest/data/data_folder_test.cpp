#include "quest/data/data_folder.h"

#include <csignal>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/json_util.h"
#include "quest/base/shutdown.h"
#include "quest/base/testing.h"
#include "quest/text/testing_text.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

BuildResult build(const TemporaryFolder& folder, const std::filesystem::path& out, bool overwrite) {
  const auto path = folder.write("text/a.txt", testing::kSampleText).string();
  TextSource source({path}, {});
  BuildOptions options;
  options.validation_fraction = 0.1;
  options.show_progress = false;
  return build_data_folder(source, *make_byte_tokenizer(), options, out, overwrite);
}

TEST(DataFolder, HoldsEverythingThatTrainingNeeds) {
  TemporaryFolder folder;
  const auto out = folder / "made/data";
  const BuildResult result = build(folder, out, false);
  verify_folder(out);
  EXPECT_EQ(TokenFile::open(out / kTrainTokensName).token_count(), result.train.token_count);
  EXPECT_EQ(TokenFile::open(out / kValidationTokensName).token_count(),
            result.validation.token_count);
  EXPECT_EQ(load_tokenizer(out)->fingerprint(), result.train.tokenizer_fingerprint);
  const Json description = read_json(out / kDataDescriptionName);
  EXPECT_EQ(description["sources"][0], (folder / "text/a.txt").string());
  EXPECT_EQ(description["source_documents"], 1);
  EXPECT_EQ(description["source_text_bytes"], testing::kSampleText.size());
  EXPECT_EQ(description["train"]["tokens"], result.train.token_count);
  EXPECT_EQ(description["validation"]["documents"], result.validation.document_count);
  const std::string table = format_build_result(result);
  EXPECT_NE(table.find(fmt::format("{}", result.train.token_count)), std::string::npos) << table;
  EXPECT_NE(table.find("validation"), std::string::npos) << table;
}

TEST(DataFolder, ReplacesOnlyDataFolders) {
  TemporaryFolder folder;
  const auto out = folder / "data";
  std::filesystem::create_directory(out);  // an empty one may be there
  build(folder, out, false);
  EXPECT_QUEST_ERROR(build(folder, out, false), ErrorKind::kUsage, "--overwrite");
  folder.write("data/old.txt", "old");
  build(folder, out, true);
  EXPECT_FALSE(std::filesystem::exists(out / "old.txt"));

  folder.write("precious/thesis.txt", "x");
  EXPECT_QUEST_ERROR(build(folder, folder / "precious", true), ErrorKind::kUsage, "no data folder");
  EXPECT_TRUE(std::filesystem::exists(folder / "precious/thesis.txt"));
  EXPECT_QUEST_ERROR(build(folder, folder / "precious/thesis.txt", true), ErrorKind::kUsage,
                     "no data folder");
}

TEST(DataFolder, ASignalLeavesTheOldFolder) {
  TemporaryFolder folder;
  const auto out = folder / "data";
  build(folder, out, false);
  const std::string before = read_file(out / kTrainTokensName);
  install_shutdown_handlers();
  std::raise(SIGINT);
  EXPECT_TRUE(build(folder, out, true).interrupted);
  reset_shutdown_signal();
  EXPECT_EQ(read_file(out / kTrainTokensName), before);
  int entries = 0;  // "text", "data": no temporary folder is left
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    (void)entry;
    ++entries;
  }
  EXPECT_EQ(entries, 2);
}

}  // namespace
}  // namespace quest
