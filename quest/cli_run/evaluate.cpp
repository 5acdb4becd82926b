#include "quest/cli_run/evaluate.h"

#include <memory>
#include <optional>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/data/token_file.h"
#include "quest/eval/multiple_choice.h"
#include "quest/eval/perplexity.h"

namespace quest::cli {
namespace {

struct EvalText {
  std::string source;
  std::vector<int32_t> tokens;
  std::optional<int64_t> bytes;
};

// Tokens of documents, each with the tokenizer's marks around it, as `quest data` writes them.
// Stops reading once there are as many as --max-tokens asks for.
EvalText read_text(const EvaluateArguments& arguments, const Tokenizer& tokenizer) {
  EvalText text;
  TextSource source(arguments.text.inputs, text_source_options(arguments.text));
  for (TextChunk chunk; source.next(chunk);) {
    const auto ids = chunk.begins_document ? tokenizer.encode(chunk.text)
                                           : tokenizer.encode_continuation(chunk.text);
    text.tokens.insert(text.tokens.end(), ids.begin(), ids.end());
    if (chunk.ends_document && tokenizer.eos_id()) {
      text.tokens.push_back(*tokenizer.eos_id());
    }
    stop_if_asked();
    if (arguments.max_tokens > 0 &&
        static_cast<int64_t>(text.tokens.size()) > arguments.max_tokens) {
      break;
    }
  }
  log_text_problems(source.counts());
  QUEST_CHECK(!text.tokens.empty(), ErrorKind::kData,
              "there is no text in the input; give files that hold some");
  text.bytes = source.counts().text_bytes;
  text.source = format_count(source.counts().files, "text file");
  return text;
}

EvalText read_token_file(const EvaluateArguments& arguments, const Tokenizer& tokenizer) {
  const TokenFile file = TokenFile::open(arguments.tokens);
  QUEST_CHECK(file.info().tokenizer_fingerprint == tokenizer.fingerprint(), ErrorKind::kData,
              "{}: made with another tokenizer ({}) than the model's ({})", arguments.tokens,
              file.info().tokenizer_fingerprint, tokenizer.fingerprint());
  EvalText text{arguments.tokens, std::vector<int32_t>(static_cast<size_t>(file.token_count())),
                file.text_bytes()};
  file.read(0, text.tokens);
  return text;
}

nlohmann::ordered_json eval_perplexity(const EvaluateArguments& arguments,
                                       const Tokenizer& tokenizer, Scorer& scorer) {
  EvalText text = arguments.tokens.empty() ? read_text(arguments, tokenizer)
                                           : read_token_file(arguments, tokenizer);
  if (arguments.max_tokens > 0 && static_cast<int64_t>(text.tokens.size()) > arguments.max_tokens) {
    text.tokens.resize(static_cast<size_t>(arguments.max_tokens));
    text.bytes.reset();  // of the whole text only
  }
  ProgressBar bar("evaluating", static_cast<int64_t>(text.tokens.size()) - 1, "tokens");
  PerplexityOptions options;
  options.context_length = arguments.context;
  options.stride = arguments.stride;
  options.text_bytes = text.bytes;
  options.progress = [&](int64_t done, int64_t) {
    bar.update(done);
    stop_if_asked();
  };
  const PerplexityResult result = perplexity(scorer, text.tokens, options);
  bar.finish();
  fmt::print(
      "text            {}\ntokens          {}\nloss            {:.4f} nats per token\n"
      "perplexity      {:.3f}\n",
      text.source, result.tokens, result.loss, result.perplexity);
  nlohmann::ordered_json json = {
      {"tokens", result.tokens}, {"loss", result.loss}, {"perplexity", result.perplexity}};
  if (result.bits_per_byte) {
    fmt::print("bits per byte   {:.4f}\n", *result.bits_per_byte);
    json["bits_per_byte"] = *result.bits_per_byte;
  }
  return json;
}

nlohmann::ordered_json eval_choices(const EvaluateArguments& arguments, const Tokenizer& tokenizer,
                                    Scorer& scorer) {
  const ChoiceFormat format =
      arguments.choice_format == "plain" ? ChoiceFormat::kPlain : ChoiceFormat::kHellaSwag;
  const auto items = load_choice_items(arguments.choices, format);
  const auto encoded =
      encode_choices(items, [&](std::string_view text) { return tokenizer.encode(text); });
  std::unique_ptr<ProgressBar> bar;
  const MultipleChoiceResult result =
      multiple_choice(scorer, encoded, [&](int64_t done, int64_t total) {
        if (!bar) {
          bar = std::make_unique<ProgressBar>("evaluating", total, "sequences");
        }
        bar->update(done);
        stop_if_asked();
      });
  if (bar) {
    bar->finish();
  }
  nlohmann::ordered_json json = {{"items", result.items}};
  fmt::print("items           {}\n", result.items);
  const auto print = [&](const char* name, const Accuracy& accuracy) {
    fmt::print("{:<15} {:.4f} +- {:.4f}\n", name, accuracy.value, accuracy.standard_error);
    json[name] = accuracy.value;
    json[std::string(name) + "_stderr"] = accuracy.standard_error;
  };
  print("acc", result.acc);
  print("acc_norm", result.acc_norm);
  print("acc_bytes", result.acc_bytes);
  return json;
}

}  // namespace

void add_evaluate_options(CLI::App& command, EvaluateArguments& arguments) {
  add_text_options(command, arguments.text);
  command.get_option("TEXT")->required(false);
  command.add_option("--tokens", arguments.tokens, "a token file (.qtok) instead of text");
  command.add_option("--choices", arguments.choices, "a multiple-choice task (JSONL)");
  command.add_option("--choice-format", arguments.choice_format, "format of --choices")
      ->check(CLI::IsMember({"hellaswag", "plain"}))
      ->capture_default_str();
  command.add_option("--context", arguments.context, "input tokens per window (0: the model's)")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command.add_option("--stride", arguments.stride, "tokens between windows (0: the context)")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command.add_option("--max-tokens", arguments.max_tokens, "only the first tokens (0: all)")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command.add_option("--json", arguments.json, "also write the result to this file");
}

void check(const EvaluateArguments& arguments) {
  const int inputs =
      !arguments.text.inputs.empty() + !arguments.tokens.empty() + !arguments.choices.empty();
  QUEST_CHECK(inputs == 1, ErrorKind::kUsage,
              "name what to evaluate on: text files, --tokens FILE.qtok or --choices FILE.jsonl "
              "(exactly one of them; {} were given)",
              inputs);
}

nlohmann::ordered_json evaluate(const EvaluateArguments& arguments, const Tokenizer& tokenizer,
                                Scorer& scorer) {
  return arguments.choices.empty() ? eval_perplexity(arguments, tokenizer, scorer)
                                   : eval_choices(arguments, tokenizer, scorer);
}

}  // namespace quest::cli
