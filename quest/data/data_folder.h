// A data folder: what `quest data` makes and a run trains on.
//
//   train.qtok            token_file.h
//   validation.qtok       if text was held out
//   tokenizer.model,      the tokenizer (load_tokenizer of the folder)
//   tokenizer_config.json
//   data.json             sources, counts, options
//   checksums.json        verify_folder proves all of it
//
//   TextSource source({"corpus/"}, {});
//   build_data_folder(source, *tokenizer, {}, "data/corpus", /*overwrite=*/false);
#pragma once

#include <filesystem>
#include <string>

#include "quest/data/build_token_file.h"

namespace quest {

inline constexpr const char* kTrainTokensName = "train.qtok";
inline constexpr const char* kValidationTokensName = "validation.qtok";
inline constexpr const char* kDataDescriptionName = "data.json";

// The folder appears complete or not at all (not if the result says interrupted). An existing data
// folder is replaced only with overwrite; anything else that stands there, never: kUsage.
// Otherwise throws as build_token_files.
BuildResult build_data_folder(TextSource& source, const Tokenizer& tokenizer,
                              const BuildOptions& options, const std::filesystem::path& folder,
                              bool overwrite);

// A table of documents, tokens, text and bytes per token of both parts.
std::string format_build_result(const BuildResult& result);

}  // namespace quest
