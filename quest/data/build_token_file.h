// Text files to token files, in parallel, with a held-out split.
//
// The result depends on the text, the tokenizer and the options, not on the number of threads. Each
// document's tokens are followed by the tokenizer's end-of-document token (if it has one) and, as
// an option, preceded by the beginning-of-document token.
//
// Held-out split: held_out_split.h. A single book gives 8 evenly spread passages, a web corpus
// whole pages; training and validation text never overlap.
//
//   TextSource source({"corpus/"}, {});
//   BuildResult r = build_token_files(source, *tokenizer, {}, "data/train.qtok",
//   "data/validation.qtok");
#pragma once

#include <cstdint>
#include <filesystem>

#include "quest/data/text_source.h"
#include "quest/data/token_file.h"
#include "quest/text/tokenizer.h"

namespace quest {

struct BuildOptions {
  double validation_fraction = 0.05;  // 0 to 0.5; 0: no validation file
  uint64_t seed = 0;                  // of the split
  bool prepend_bos = false;
  int threads = 0;  // 0: default_thread_count()
  bool show_progress = true;
};

struct BuildResult {
  TokenFileInfo train;
  TokenFileInfo validation;  // token_count 0 if there is none
  bool interrupted = false;  // by SIGINT or SIGTERM: nothing was written
};

// Both files appear complete or not at all. Throws what the source, the tokenizer and the writers
// throw; kUsage for options out of range, kData if there is no text.
BuildResult build_token_files(TextSource& source, const Tokenizer& tokenizer,
                              const BuildOptions& options, const std::filesystem::path& train_path,
                              const std::filesystem::path& validation_path);

}  // namespace quest
