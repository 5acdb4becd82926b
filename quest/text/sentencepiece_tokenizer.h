// The SentencePiece tokenizer from the bytes of its model. Programs use load_tokenizer
// (tokenizer.h).
#pragma once

#include <memory>
#include <string>

#include "quest/text/tokenizer.h"

namespace quest {

// Throws kData; `name` is the model's file, for the message.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string serialized_model,
                                                        const std::string& name);

}  // namespace quest
