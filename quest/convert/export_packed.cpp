#include "quest/convert/export_packed.h"

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/convert/checkpoint_layers.h"
#include "quest/convert/replaceable.h"
#include "quest/packed/packed_writer.h"
#include "quest/text/tokenizer.h"

namespace quest::convert {
namespace {

double write_table(PackedWriter& out, const std::string& name, const TensorView& tensor) {
  return out.write_table(name,
                         [&](int64_t row, std::span<float> x) { row_to_float(tensor, row, x); });
}

void write_layer(PackedWriter& out, const CheckpointLayers& checkpoint, int64_t block, size_t j,
                 ThreadPool& pool) {
  const QuantizedLayer layer = checkpoint.quantize(block, j, pool);
  out.write_layer(packed_layer_name(block, packed_layers(checkpoint.config())[j]),
                  {layer.codes, layer.units, layer.weight});
}

}  // namespace

ExportReport export_packed(const std::filesystem::path& model, const std::filesystem::path& out,
                           const ExportOptions& options) {
  const std::filesystem::path source = find_model_folder(model);
  check_replaceable(out, FolderKind::kPacked);
  const CheckpointLayers checkpoint(source);
  const LlamaConfig& config = checkpoint.config();
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(source);
  TableFormats formats{options.embedding, options.head.value_or(TableFormat::kInt8)};
  if (config.tie_word_embeddings && !options.head) formats.head = options.embedding;
  ThreadPool pool;
  PackedWriter writer(out, {.config = config,
                            .recipe = checkpoint.recipe(),
                            .formats = formats,
                            .source_hash = checkpoint.files().hash()});
  ExportReport report{.source = source, .recipe = checkpoint.recipe(), .errors = {}};
  ProgressBar bar("packing", config.num_layers, "blocks");
  report.embedding_error = write_table(writer, "model.embed_tokens",
                                       checkpoint.files().tensor("model.embed_tokens.weight"));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const auto write_norm = [&](const char* norm) {
      const std::string name = fmt::format("model.layers.{}.{}.weight", i, norm);
      writer.write_norm(name, checkpoint.values(name));
    };
    write_norm("input_layernorm");
    write_layer(writer, checkpoint, i, 0, pool);
    write_layer(writer, checkpoint, i, 1, pool);
    write_norm("post_attention_layernorm");
    write_layer(writer, checkpoint, i, 2, pool);
    write_layer(writer, checkpoint, i, 3, pool);
    bar.update(i + 1);
    stop_if_asked();
  }
  writer.write_norm("model.norm.weight", checkpoint.values("model.norm.weight"));
  report.head_error = report.embedding_error;
  if (!config.tie_word_embeddings) {
    report.head_error = write_table(writer, "lm_head", checkpoint.files().tensor("lm_head.weight"));
  }
  bar.finish();
  tokenizer->save(writer.folder());
  writer.publish();
  return report;
}

}  // namespace quest::convert
