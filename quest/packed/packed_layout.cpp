#include "quest/packed/packed_layout.h"

#include "quest/base/error.h"

namespace quest {
namespace {

constexpr int64_t kLargestExtent = (int64_t{1} << 31) - 1;
constexpr int64_t kLargestTensor = int64_t{1} << 44;  // values
constexpr int64_t kGroup = 32;                        // columns of one unit of an int4 table

class LayoutBuilder {
 public:
  void add(std::string name, DType dtype, std::vector<int64_t> shape, int64_t parameters = 0) {
    int64_t bytes = static_cast<int64_t>(dtype_size(dtype));
    for (const int64_t size : shape) bytes *= size;
    entries_.push_back({std::move(name), dtype, std::move(shape), bytes, parameters});
    const int64_t past = bytes % kPackedAlignment;
    if (past == 0) return;
    const int64_t padding = kPackedAlignment - past;
    entries_.push_back({fmt::format("padding.{}", paddings_++), DType::kU8, {padding}, padding, 0});
  }
  void add_bytes(std::string name, int64_t bytes, int64_t parameters = 0) {
    add(std::move(name), DType::kU8, {bytes}, parameters);
  }
  void add_norm(std::string name, int64_t c) { add(std::move(name), DType::kF32, {c}, c); }

  std::vector<PackedEntry> take() { return std::move(entries_); }

 private:
  std::vector<PackedEntry> entries_;
  int64_t paddings_ = 0;
};

void check_extent(std::string_view what, int64_t rows, int64_t columns) {
  QUEST_CHECK(
      rows <= kLargestExtent && columns <= kLargestExtent && rows * columns <= kLargestTensor,
      ErrorKind::kUsage, "{} of {} x {} values is larger than a packed model can hold", what, rows,
      columns);
}

void check_shapes(const LlamaConfig& config) {
  // Sums and products below stay within int64: validate() bounds each field by 2^31.
  check_extent("the query projection", config.q_size(), config.hidden_size);
  check_extent("the key projection", config.kv_size(), config.hidden_size);
  for (const PackedLayer& layer : packed_layers(config)) check_extent(layer.name, layer.n, layer.k);
  check_extent("the embedding", config.vocab_size, config.hidden_size);
}

void check_grids(const QuantRecipe& recipe) {
  for (const QuantSpec* side : {&recipe.weight, &recipe.activation}) {
    QUEST_CHECK(side->grid != Grid::kRegistered, ErrorKind::kUsage,
                "{} has no packed form: it is for training and comparison", to_string(*side));
    QUEST_CHECK(side->grid != Grid::kMask4of8, ErrorKind::kUsage,
                "{} has no packed form: it leaves its values unrounded", to_string(*side));
  }
  QUEST_CHECK(recipe.activation.grid != Grid::kUniform4of8, ErrorKind::kUsage,
              "activations of {} have no packed form", to_string(recipe.activation));
}

void add_table(LayoutBuilder& layout, const std::string& name, TableFormat format, int64_t rows,
               int64_t columns) {
  const int64_t parameters = rows * columns;
  switch (format) {
    case TableFormat::kBf16:
      layout.add(name + ".weight", DType::kBF16, {rows, columns}, parameters);
      return;
    case TableFormat::kInt8:
      layout.add_bytes(name + ".codes", CodeTiles{.bits = 8, .n = rows, .k = columns}.bytes(),
                       parameters);
      layout.add(name + ".units", DType::kF32, {rows});
      return;
    case TableFormat::kInt4:
      QUEST_CHECK(columns % kGroup == 0, ErrorKind::kUsage,
                  "{} has {} columns: an int4 table needs a multiple of {}; take int8", name,
                  columns, kGroup);
      layout.add_bytes(name + ".codes", CodeTiles{.bits = 4, .n = rows, .k = columns}.bytes(),
                       parameters);
      layout.add(name + ".units", DType::kBF16, {rows, columns / kGroup});
      return;
  }
}

void add_layer(LayoutBuilder& layout, const std::string& name, const PackedLayer& layer,
               const QuantRecipe& recipe) {
  const int64_t parameters = layer.n * layer.k;
  if (!recipe.weight.is_quantized()) {
    layout.add(name + ".weight", DType::kBF16, {layer.n, layer.k}, parameters);
    return;
  }
  if (recipe.weight.grid == Grid::kUniform4of8) {
    const SparseTiles tiles = sparse_tiles(layer.n, layer.k);
    layout.add_bytes(name + ".codes", tiles.kept.bytes(), parameters);
    layout.add_bytes(name + ".pairs", tiles.pairs.bytes());
  } else {
    const CodeTiles tiles{.bits = stored_format(recipe.weight).bits, .n = layer.n, .k = layer.k};
    layout.add_bytes(name + ".codes", tiles.bytes(), parameters);
  }
  layout.add(name + ".units", DType::kF32, {layer.n});
  if (has_value_sums(recipe)) layout.add(name + ".value_sums", DType::kI32, {layer.n});
}

}  // namespace

std::array<PackedLayer, 4> packed_layers(const LlamaConfig& config) {
  return {{{"self_attn.qkv_proj", config.q_size() + 2 * config.kv_size(), config.hidden_size},
           {"self_attn.o_proj", config.hidden_size, config.q_size()},
           {"mlp.gate_up_proj", 2 * config.intermediate_size, config.hidden_size},
           {"mlp.down_proj", config.hidden_size, config.intermediate_size}}};
}

std::string packed_layer_name(int64_t block, const PackedLayer& layer) {
  return fmt::format("model.layers.{}.{}", block, layer.name);
}

bool has_value_sums(const QuantRecipe& recipe) {
  return recipe.weight.is_quantized() && recipe.activation.is_quantized() &&
         code_format(recipe.weight).is_integer && code_format(recipe.activation).offset != 0;
}

std::vector<PackedEntry> packed_layout(const LlamaConfig& config, const QuantRecipe& recipe,
                                       TableFormats formats) {
  validate(config, recipe);
  check_grids(recipe);
  check_shapes(config);
  QUEST_CHECK(!config.tie_word_embeddings || formats.head == formats.embedding, ErrorKind::kUsage,
              "the head is tied to the embedding, which is {}: it cannot be {}",
              table_format_name(formats.embedding), table_format_name(formats.head));
  LayoutBuilder layout;
  add_table(layout, "model.embed_tokens", formats.embedding, config.vocab_size, config.hidden_size);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const auto layers = packed_layers(config);
    const std::string block = fmt::format("model.layers.{}.", i);
    layout.add_norm(block + "input_layernorm.weight", config.hidden_size);
    add_layer(layout, packed_layer_name(i, layers[0]), layers[0], recipe);
    add_layer(layout, packed_layer_name(i, layers[1]), layers[1], recipe);
    layout.add_norm(block + "post_attention_layernorm.weight", config.hidden_size);
    add_layer(layout, packed_layer_name(i, layers[2]), layers[2], recipe);
    add_layer(layout, packed_layer_name(i, layers[3]), layers[3], recipe);
  }
  layout.add_norm("model.norm.weight", config.hidden_size);
  if (!config.tie_word_embeddings) {
    add_table(layout, "lm_head", formats.head, config.vocab_size, config.hidden_size);
  }
  return layout.take();
}

}  // namespace quest
