// A tokenizer for programs that know only Hugging Face's: tokenizer.model is enough for
// SentencePiece BPE, bytes need a tokenizer.json.
//
//   const std::string warning = save_hf_tokenizer(*tokenizer, folder);
#pragma once

#include <filesystem>
#include <string>

#include "quest/text/tokenizer.h"

namespace quest::convert {

// Saves into an existing folder; load_tokenizer reads it as before. For bytes also tokenizer.json,
// which AutoTokenizer of transformers loads. Returns what is not the same there, empty if nothing
// is known: transformers 5 takes a unigram model for BPE. Throws kIo.
std::string save_hf_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder);

}  // namespace quest::convert
