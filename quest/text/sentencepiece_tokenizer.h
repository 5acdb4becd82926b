// The SentencePiece tokenizer from the bytes of its model. Programs use load_tokenizer
// (tokenizer.h).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "quest/text/tokenizer.h"

namespace quest {

// Throws kData; `name` is the model's file, for the message. A chat template is kept for save().
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(
    std::string serialized_model, const std::string& name,
    std::optional<std::string> chat_template = {});

// SentencePiece logs to stderr; after this call only what ends the process. Cheap after the first
// time.
void silence_sentencepiece();

}  // namespace quest
