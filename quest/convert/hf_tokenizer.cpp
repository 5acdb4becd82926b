#include "quest/convert/hf_tokenizer.h"

#include <nlohmann/json.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/text/tokenizer_config.h"

namespace quest::convert {
namespace {

using OrderedJson = nlohmann::ordered_json;

// BPE without merges, in which every character falls back to its bytes.
OrderedJson byte_fallback_json(const Tokenizer& tokenizer) {
  OrderedJson vocabulary = OrderedJson::object();
  OrderedJson added = OrderedJson::array();
  for (int32_t id = 0; id < static_cast<int32_t>(tokenizer.vocab_size()); ++id) {
    const std::string name = tokenizer.token_name(id);
    vocabulary[name] = id;
    if (!tokenizer.token_bytes(id).empty()) continue;
    added.push_back({{"id", id},
                     {"content", name},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const OrderedJson decoders = {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", true},
            {"ignore_merges", false},
            {"vocab", vocabulary},
            {"merges", OrderedJson::array()}}}};
}

}  // namespace

std::string save_hf_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  tokenizer.save(folder);
  if (tokenizer.kind() == "sentencepiece-bpe") return {};
  if (tokenizer.kind() != "bytes") {
    return fmt::format(
        "the tokenizer is {}, which transformers 5 reads as BPE and so splits otherwise: encode "
        "with the package sentencepiece and {}",
        tokenizer.kind(), kTokenizerModelName);
  }
  write_file_atomically(folder / "tokenizer.json", byte_fallback_json(tokenizer).dump(1) + "\n");
  const std::filesystem::path path = folder / kTokenizerConfigName;
  Json config = read_json(path);
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["clean_up_tokenization_spaces"] = false;
  config["eos_token"] = tokenizer.token_name(*tokenizer.eos_id());
  write_file_atomically(path, config.dump(2) + "\n");
  return {};
}

}  // namespace quest::convert
