#include "quest/cli_run/text_options.h"

#include <CLI/CLI.hpp>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"

namespace quest::cli {

void add_text_options(CLI::App& command, TextArguments& arguments) {
  command
      .add_option(
          "TEXT", arguments.inputs,
          "text files, folders, globs, or - for standard input: .txt, .jsonl, also .gz, .zst")
      ->required();
  command
      .add_option("--json-field", arguments.options.json_field,
                  "field of .jsonl lines with the text")
      ->capture_default_str();
  command.add_option("--document-separator", arguments.separator,
                     "string that separates the documents of a text file, e.g. '\\n\\n\\n' "
                     "(default: a file is one document)");
  command.add_option("--stdin-format", arguments.options.stdin_format, "format of standard input")
      ->check(CLI::IsMember({"txt", "jsonl"}))
      ->capture_default_str();
  command.add_flag("--skip-bad-lines", arguments.options.skip_bad_lines,
                   "count and skip .jsonl lines that are damaged or lack the field");
}

TextSourceOptions text_source_options(const TextArguments& arguments) {
  TextSourceOptions options = arguments.options;
  options.document_separator = unescape(arguments.separator);
  return options;
}

void log_text_problems(const TextCounts& counts) {
  if (counts.replaced_bytes > 0) {
    log::warn("replaced {} of invalid UTF-8 by U+FFFD",
              format_count(counts.replaced_bytes, "byte"));
  }
  if (counts.bad_lines > 0) {
    log::warn("skipped {}", format_count(counts.bad_lines, "bad .jsonl line"));
  }
  if (counts.empty_documents > 0) {
    log::info("skipped {}", format_count(counts.empty_documents, "empty document"));
  }
}

std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char escaped = ++i < text.size() ? text[i] : '\0';
    switch (escaped) {
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case 'r':
        out += '\r';
        break;
      case 'f':
        out += '\f';
        break;
      case '\\':
        out += '\\';
        break;
      default:
        QUEST_THROW(ErrorKind::kUsage,
                    "unknown escape at the end of '{}', allowed are \\n \\t \\r \\f \\\\",
                    text.substr(0, i + 1));
    }
  }
  return out;
}

}  // namespace quest::cli
