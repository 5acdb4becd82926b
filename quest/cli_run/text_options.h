// The options by which commands say how text files are read.
#pragma once

#include <string>
#include <vector>

#include "quest/data/text_source.h"

namespace CLI {
class App;
}

namespace quest::cli {

struct TextArguments {
  std::vector<std::string> inputs;
  TextSourceOptions options;
  std::string separator;  // as written, with \n and \t
};

// Adds TEXT..., --json-field, --document-separator, --stdin-format, --skip-bad-lines. `arguments`
// must outlive the command.
void add_text_options(CLI::App& command, TextArguments& arguments);
// The source that the arguments describe.
TextSourceOptions text_source_options(const TextArguments& arguments);
// Warns of what was repaired or left out.
void log_text_problems(const TextCounts& counts);

// "\n" (two characters) to a newline; also \t, \r, \f and \\. Throws kUsage for another escape.
std::string unescape(const std::string& text);

}  // namespace quest::cli
