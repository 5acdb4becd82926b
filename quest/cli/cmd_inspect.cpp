// quest inspect: what a packed model is made of, to the byte, and whether it is a checkpoint's.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/cli/commands.h"
#include "quest/model/checkpoint_files.h"
#include "quest/packed/packed_report.h"

namespace quest::cli {
namespace {

// By the hash of the weights and the word of verify.json: nothing is computed again.
void check_verified(const PackedModel& model, const std::string& checkpoint) {
  const std::filesystem::path source = find_model_folder(checkpoint);
  const std::string hash = CheckpointFiles(source).hash();
  QUEST_CHECK(hash == model.source_hash(), ErrorKind::kData,
              "{} was made from weights {}, but those of {} are {}: export it again",
              model.folder().string(), model.source_hash(), source.string(), hash);
  const std::string verified = verify_text(model);
  QUEST_CHECK(verified == "passed", ErrorKind::kData,
              "{} is not proven to be {} (verify.json: {}): run quest verify {} --against {}",
              model.folder().string(), source.string(), verified, model.folder().string(),
              checkpoint);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "sizes of a packed model to the byte; bits per parameter");
  struct Arguments {
    std::string model, checkpoint;
    bool tensors = false;
  };
  auto arguments = std::make_shared<Arguments>();
  command->add_option("PACKED", arguments->model, "a packed model's folder")->required();
  command->add_flag("--tensors", arguments->tensors, "every tensor of the file");
  command->add_option("--against", arguments->checkpoint,
                      "fail unless the model was made from this checkpoint's or run's weights and "
                      "quest verify has proven it");
  command->callback([arguments] {
    const PackedModel model(arguments->model);
    fmt::print("{}", packed_report(model, arguments->tensors));
    if (!arguments->checkpoint.empty()) check_verified(model, arguments->checkpoint);
  });
}

}  // namespace quest::cli
