// quest data: text files to a folder of token files that training reads.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/cli_run/text_options.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/data/data_folder.h"

namespace quest::cli {
namespace {

struct DataArguments {
  TextArguments text;
  std::string tokenizer;
  std::string out;
  bool overwrite = false;
  BuildOptions build;
};

void run_data(const DataArguments& arguments) {
  install_shutdown_handlers();
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(arguments.tokenizer);
  TextSource source(arguments.text.inputs, text_source_options(arguments.text));
  const BuildResult result =
      build_data_folder(source, *tokenizer, arguments.build, arguments.out, arguments.overwrite);
  if (result.interrupted) {
    log::warn("interrupted; {} was not written", arguments.out);
    return;
  }
  log_text_problems(source.counts());
  fmt::print("{}wrote {}: {} of {}, tokenizer {} of {}\n", format_build_result(result),
             arguments.out, format_count(source.counts().documents, "document"),
             format_count(source.counts().files, "file"), tokenizer->kind(),
             format_count(tokenizer->vocab_size(), "token"));
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("data", "tokenize text files into a data folder");
  auto arguments = std::make_shared<DataArguments>();
  BuildOptions& build = arguments->build;
  add_text_options(*command, arguments->text);
  command
      ->add_option("--tokenizer", arguments->tokenizer,
                   "tokenizer folder, SentencePiece file, or the word bytes")
      ->required();
  command->add_option("--out", arguments->out, "the data folder to make")->required();
  command->add_flag("--overwrite", arguments->overwrite, "replace an existing data folder");
  command
      ->add_option("--validation-fraction", build.validation_fraction,
                   "share of the text that is held out; 0: none")
      ->check(CLI::Range(0.0, 0.5))
      ->capture_default_str();
  command->add_option("--seed", build.seed, "of the choice of held-out text")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_flag("--prepend-bos", build.prepend_bos,
                    "put the beginning-of-document token before each document");
  command->add_option("--threads", build.threads, "threads that tokenize; 0: one per core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->callback([arguments] { run_data(*arguments); });
}

}  // namespace quest::cli
