// Checkpoints to folders that others run: packed (quest-run), or a dequantized BF16 Hugging Face
// Llama (transformers).
//
//   const ExportReport report = export_packed("runs/w4a4/final", "packed/w4a4", {});
//
// The folder is published whole; one that stands there is replaced only if it is of the same kind,
// so that no checkpoint is lost to a mistyped name. Throws kIo, kData, kNumeric, kUsage.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quest/packed/packed_layout.h"

namespace quest::convert {

struct TensorError {
  std::string name;
  double of_rounding = 0;  // |stored - quantized| / |quantized|: what this format adds
  double of_master = 0;    // |stored - master| / |master|: with the quantization itself
};

struct ExportReport {
  std::filesystem::path source;  // the folder that was read
  QuantRecipe recipe;
  double embedding_error = 0, head_error = 0;  // |table - master| / |master| (Frobenius)
  std::vector<TensorError> errors;             // export_hf: each Hugging Face matrix of the blocks
  std::string warning = {};                    // export_hf: of the tokenizer (hf_tokenizer.h)
};

struct ExportOptions {
  // BF16 is what training in BF16 sees of an embedding, and a token reads one row of it; an INT8
  // head costs 0.005 % of perplexity (docs/packed_format.md).
  TableFormat embedding = TableFormat::kBf16;
  std::optional<TableFormat> head = {};  // none: int8, or the embedding's if it is tied
};
// model: as find_model_folder takes it. kUsage if the head is tied and its format another one.
ExportReport export_packed(const std::filesystem::path& model, const std::filesystem::path& out,
                           const ExportOptions& options);

// Weights quantized, rotated back and rounded to BF16, without quantization_config: any loader of
// Llamas takes it. Activations are no longer quantized.
ExportReport export_hf(const std::filesystem::path& model, const std::filesystem::path& out);

}  // namespace quest::convert
