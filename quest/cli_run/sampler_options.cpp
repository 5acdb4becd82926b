#include "quest/cli_run/sampler_options.h"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <iostream>
#include <iterator>

#include <CLI/CLI.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/cli_run/whole_numbers.h"

namespace quest::cli {

void add_sampler_options(CLI::App& command, SamplerSettings& settings) {
  command.add_option("--temperature", settings.temperature, "0: always the most probable token")
      ->capture_default_str();
  command.add_option("--top-k", settings.top_k, "only the k most probable tokens (0: all)")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command
      .add_option("--top-p", settings.top_p, "only the most probable tokens that hold this much")
      ->capture_default_str();
  command
      .add_option("--min-p", settings.min_p, "at least this fraction of the largest probability")
      ->capture_default_str();
  command.add_option("--repetition-penalty", settings.repetition_penalty, "1: none")
      ->capture_default_str();
  command.add_option("--seed", settings.seed, "seed of the random draws")
      ->check(whole_number_from(0))
      ->capture_default_str();
}

void add_logit_bias_option(CLI::App& command, SamplerSettings& settings) {
  command
      .add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [&settings](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              settings.logit_bias.push_back(parse_logit_bias(text));
            }
          },
          "TOKEN=NUMBER, added to the token's logit; -inf excludes it (repeatable)")
      ->allow_extra_args(false);
}

void add_stop_option(CLI::App& command, std::vector<std::string>& stops) {
  command
      .add_option_function<std::vector<std::string>>(
          "--stop",
          [&stops](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              QUEST_CHECK(!text.empty(), ErrorKind::kUsage, "--stop is empty: it would never stop");
            }
            stops = texts;
          },
          "the text ends before this (repeatable)")
      ->allow_extra_args(false);
}

void add_prompt_options(CLI::App& command, PromptArguments& arguments) {
  command.add_option("--prompt", arguments.prompt, "text to go on from (default: none)");
  command.add_option("--prompt-file", arguments.prompt_file, "file with the prompt; - is stdin");
}

std::string read_prompt(const PromptArguments& arguments) {
  QUEST_CHECK(arguments.prompt.empty() || arguments.prompt_file.empty(), ErrorKind::kUsage,
              "--prompt and --prompt-file exclude each other");
  if (arguments.prompt_file == "-") {
    return {std::istreambuf_iterator<char>(std::cin), {}};
  }
  return arguments.prompt_file.empty() ? arguments.prompt : read_file(arguments.prompt_file);
}

void print_now(std::string_view text) {
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  QUEST_CHECK(written, ErrorKind::kIo, "cannot write to standard output: {}", errno_text(errno));
}

std::pair<int32_t, float> parse_logit_bias(const std::string& text) {
  int32_t id = 0;
  float bias = 0;
  const char* end = text.data() + text.size();
  const auto [after_id, id_error] = std::from_chars(text.data(), end, id);
  bool good = id_error == std::errc() && after_id != end && *after_id == '=';
  if (good) {
    const auto [rest, error] = std::from_chars(after_id + 1, end, bias);
    good = error == std::errc() && rest == end;
  }
  QUEST_CHECK(good, ErrorKind::kUsage,
              "--logit-bias '{}' is not TOKEN=NUMBER, as in 42=-1.5 or 42=-inf", text);
  return {id, bias};
}

}  // namespace quest::cli
