#include "quest/data/data_folder.h"

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/progress.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

void check_destination(const fs::path& folder, bool overwrite) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) return;
  const bool empty = fs::is_directory(status) && fs::is_empty(folder, error);
  if (empty) return;
  QUEST_CHECK(fs::is_directory(status) && fs::exists(folder / kDataDescriptionName),
              ErrorKind::kUsage,
              "{} exists and is no data folder (it has no {}); choose another place",
              folder.string(), kDataDescriptionName);
  QUEST_CHECK(overwrite, ErrorKind::kUsage,
              "{} exists; choose another place, or replace it with "
              "--overwrite",
              folder.string());
}

Json describe(const TokenFileInfo& info) {
  return {{"documents", info.document_count},
          {"tokens", info.token_count},
          {"text_bytes", info.text_bytes},
          {"bits_per_token", info.bits_per_token}};
}

Json describe(const TextSource& source, const Tokenizer& tokenizer, const BuildOptions& options,
              const BuildResult& result) {
  const TextCounts& counts = source.counts();
  Json description;
  description["sources"] = source.files();
  description["source_documents"] = counts.documents;
  description["source_text_bytes"] = counts.text_bytes;
  description["skipped_empty_documents"] = counts.empty_documents;
  description["skipped_bad_lines"] = counts.bad_lines;
  description["replaced_bytes"] = counts.replaced_bytes;
  description["tokenizer"] = {{"kind", tokenizer.kind()},
                              {"vocab_size", tokenizer.vocab_size()},
                              {"fingerprint", tokenizer.fingerprint()}};
  description["validation_fraction"] = options.validation_fraction;
  description["seed"] = options.seed;
  description["prepend_bos"] = options.prepend_bos;
  description["train"] = describe(result.train);
  if (result.validation.token_count > 0) description["validation"] = describe(result.validation);
  return description;
}

std::string format_row(const char* name, const TokenFileInfo& info) {
  return fmt::format("{:<12}{:>12}{:>16}{:>14}{:>14.3f}\n", name, info.document_count,
                     info.token_count, format_quantity(static_cast<double>(info.text_bytes), "B"),
                     static_cast<double>(info.text_bytes) / static_cast<double>(info.token_count));
}

}  // namespace

BuildResult build_data_folder(TextSource& source, const Tokenizer& tokenizer,
                              const BuildOptions& options, const fs::path& folder, bool overwrite) {
  check_destination(folder, overwrite);
  AtomicFolder out(folder);
  const BuildResult result =
      build_token_files(source, tokenizer, options, out.path() / kTrainTokensName,
                        out.path() / kValidationTokensName);
  if (result.interrupted) return result;
  tokenizer.save(out.path());
  // File names need not be UTF-8.
  write_file_atomically(out.path() / kDataDescriptionName,
                        describe(source, tokenizer, options, result)
                                .dump(2, ' ', false, Json::error_handler_t::replace) +
                            "\n");
  out.publish();
  return result;
}

std::string format_build_result(const BuildResult& result) {
  std::string table = fmt::format("{:<12}{:>12}{:>16}{:>14}{:>14}\n", "", "documents", "tokens",
                                  "text", "bytes/token");
  table += format_row("train", result.train);
  if (result.validation.token_count > 0) table += format_row("validation", result.validation);
  return table;
}

}  // namespace quest
