// quest tokenizer: train a tokenizer, look into one, see how it cuts a text.
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/cli/commands.h"
#include "quest/cli_run/text_options.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/text/train_sentencepiece.h"

namespace quest::cli {
namespace {

namespace fs = std::filesystem;

struct TrainTokenizerArguments {
  TextArguments text;
  SentencePieceOptions options;
  std::string out;
};

struct LookArguments {
  std::string tokenizer;
  std::string text;
  int64_t first = 0;
  int64_t count = 20;
};

std::string describe(const Tokenizer& tokenizer) {
  const auto special = [&](std::optional<int32_t> id) {
    return id ? fmt::format("{} ({})", *id, tokenizer.token_name(*id)) : std::string("none");
  };
  return fmt::format(
      "kind                   {}\nvocabulary             {}\nbeginning of document  {}\n"
      "end of document        {}\nfingerprint            {}\n",
      tokenizer.kind(), tokenizer.vocab_size(), special(tokenizer.bos_id()),
      special(tokenizer.eos_id()), tokenizer.fingerprint());
}

void train_tokenizer(const TrainTokenizerArguments& arguments) {
  const fs::path out = arguments.out;
  QUEST_CHECK(!fs::exists(out / "tokenizer.model"), ErrorKind::kUsage,
              "{} holds a tokenizer already; choose another place or remove it", out.string());
  TextSource source(arguments.text.inputs, text_source_options(arguments.text));
  std::unique_ptr<Tokenizer> tokenizer;
  {
    ProgressBar progress("reading", source.total_file_bytes(), "B");
    tokenizer = train_sentencepiece(arguments.options, [&](std::string& text) {
      TextChunk chunk;
      const bool more = source.next(chunk);
      progress.update(source.file_bytes_read());
      if (!more) progress.finish();
      text = std::move(chunk.text);
      return more;
    });
  }
  log_text_problems(source.counts());
  std::error_code error;
  fs::create_directories(out, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot make the folder {}: {}", out.string(),
              error.message());
  tokenizer->save(out);
  fmt::print("{}wrote {}, trained on {} of text\n", describe(*tokenizer), out.string(),
             format_quantity(static_cast<double>(source.counts().text_bytes), "B"));
}

void run_inspect(const LookArguments& arguments) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(arguments.tokenizer);
  fmt::print("{}", describe(*tokenizer));
  const int64_t first = std::min(arguments.first, tokenizer->vocab_size());
  const int64_t end = first + std::min(arguments.count, tokenizer->vocab_size() - first);
  for (int64_t id = first; id < end; ++id) {
    fmt::print("{:>8}  {}\n", id, tokenizer->token_name(static_cast<int32_t>(id)));
  }
}

void run_encode(const LookArguments& arguments) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(arguments.tokenizer);
  const std::vector<int32_t> ids = tokenizer->encode(arguments.text);
  for (const int32_t id : ids) fmt::print("{:>8}  {}\n", id, tokenizer->token_name(id));
  fmt::print("{}, {}\n", format_count(std::ssize(ids), "token"),
             format_count(std::ssize(arguments.text), "byte"));
}

void add_train(CLI::App& group) {
  CLI::App* command =
      group.add_subcommand("train", "train a SentencePiece tokenizer on text files");
  auto arguments = std::make_shared<TrainTokenizerArguments>();
  SentencePieceOptions& options = arguments->options;
  add_text_options(*command, arguments->text);
  command->add_option("--out", arguments->out, "folder for tokenizer.model")->required();
  command
      ->add_option("--vocab-size", options.vocab_size,
                   "tokens, with 3 control tokens and 256 bytes")
      ->check(CLI::Range(int64_t{4}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--model", options.model_type, "how words are cut into pieces")
      ->check(CLI::IsMember({"bpe", "unigram"}))
      ->capture_default_str();
  command
      ->add_option("--character-coverage", options.character_coverage,
                   "share of the text's characters that get tokens of their own")
      ->check(CLI::Range(0.98, 1.0))
      ->capture_default_str();
  command->add_flag("--byte-fallback,!--no-byte-fallback", options.byte_fallback,
                    "write other characters as bytes, not as <unk> (default: on)");
  command->add_flag("--split-digits,!--no-split-digits", options.split_digits,
                    "one token per digit (default: on)");
  command
      ->add_option("--max-lines", options.max_lines,
                   "of a larger text, train on a random sample of this many lines")
      ->check(whole_number_from(1))
      ->capture_default_str();
  command->add_option("--seed", options.seed, "of that sample")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->callback([arguments] { train_tokenizer(*arguments); });
}

void add_look_commands(CLI::App& group) {
  auto arguments = std::make_shared<LookArguments>();
  CLI::App* inspect = group.add_subcommand("inspect", "print a tokenizer's properties and tokens");
  inspect->add_option("TOKENIZER", arguments->tokenizer, "folder, SentencePiece file, or bytes")
      ->required();
  inspect->add_option("--first", arguments->first, "id of the first token to print")
      ->check(whole_number_from(0))
      ->capture_default_str();
  inspect->add_option("--count", arguments->count, "number of tokens to print")
      ->check(whole_number_from(0))
      ->capture_default_str();
  inspect->callback([arguments] { run_inspect(*arguments); });

  CLI::App* encode = group.add_subcommand("encode", "print the tokens of a text");
  encode->add_option("TOKENIZER", arguments->tokenizer, "folder, SentencePiece file, or bytes")
      ->required();
  encode->add_option("TEXT", arguments->text, "the text itself")->required();
  encode->callback([arguments] { run_encode(*arguments); });
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* group = app.add_subcommand("tokenizer", "train a tokenizer, or look into one");
  group->require_subcommand(1);
  add_train(*group);
  add_look_commands(*group);
}

}  // namespace quest::cli
