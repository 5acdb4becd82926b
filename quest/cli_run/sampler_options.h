// The options by which commands say how text is written: settings of the sampler, prompt, stop
// strings, length.
#pragma once

#include <string>
#include <vector>

#include "quest/runtime/sampler.h"

namespace CLI {
class App;
}

namespace quest::cli {

// --temperature, --top-k, --top-p, --min-p, --repetition-penalty, --seed. `settings` must outlive
// the command.
void add_sampler_options(CLI::App& command, SamplerSettings& settings);

// --logit-bias, repeatable.
void add_logit_bias_option(CLI::App& command, SamplerSettings& settings);
// --stop, repeatable; an empty one throws kUsage. `stops` must outlive the command.
void add_stop_option(CLI::App& command, std::vector<std::string>& stops);

struct PromptArguments {
  std::string prompt, prompt_file;
};
// --prompt, --prompt-file.
void add_prompt_options(CLI::App& command, PromptArguments& arguments);
// The text; of standard input for the file "-". Throws kUsage if both are given.
std::string read_prompt(const PromptArguments& arguments);

// Writes to standard output at once. Throws kIo if it takes no more.
void print_now(std::string_view text);

// "42=-1.5" or "42=-inf" to a token and its bias. Throws kUsage.
std::pair<int32_t, float> parse_logit_bias(const std::string& text);

}  // namespace quest::cli
