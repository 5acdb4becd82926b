#include "quest/kernels/packed_gemm.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/packed_gemm_task.h"

namespace quest::kernels {
namespace {

using detail::ActivationLayout;
using detail::effective_level;
using detail::OutputRange;
using detail::PackedFloatTask;
using detail::PackedTask;
using detail::PackedValues;
using detail::ValueMap;

// From here on AMX tiles are faster than the dot and popcount kernels, which read the weights once
// for 8 rows.
constexpr int64_t kMinRowsForTiles = 9;

// Each part of prepare_activation_rows is whole strips.
static_assert(kPreparedRows % detail::kAmxStrip == 0 && kPreparedRows % detail::kMaxStrip == 0);

bool is_sparse(const QuantSpec& spec) { return spec.grid == Grid::kUniform4of8; }

void check_weight(const PackedWeight& w, const OutputRange& range, int64_t rows) {
  detail::check_range("packed_gemm", range, rows, w.n);
  const int64_t stored_k = is_sparse(w.spec) ? w.k / 2 : w.k;
  QUEST_ASSERT(w.tiles.bits == w.spec.bits && w.tiles.n == w.n && w.tiles.k == stored_k,
               "tiles of {} bits ({}, {}) for a weight {} ({}, {})", w.tiles.bits, w.tiles.n,
               w.tiles.k, to_string(w.spec), w.n, w.k);
  QUEST_ASSERT(range.is_empty() || reinterpret_cast<uintptr_t>(w.bytes) % 64 == 0,
               "weights must be aligned to 64 bytes");
}

// sum_k number(w[n][k]) for [n0, n1): from the sums that are stored with the weight, or, where a
// stored value is not affine in its number or they are not given, by a product with ones.
void weight_sums(const PackedPlan& plan, const PackedWeight& w, const PackedTask& task,
                 const uint8_t* ones, std::vector<uint32_t>& sums) {
  const ValueMap map = task.selects ? ValueMap{} : detail::value_map(w.spec);
  const auto count = static_cast<size_t>(task.n1 - task.n0);
  sums.resize(count);
  if (w.value_sums != nullptr && task.w.values == PackedValues::kBits) {
    for (size_t i = 0; i < count; ++i) {
      sums[i] = static_cast<uint32_t>(map.multiplier * w.value_sums[task.n0 + i] +
                                      map.offset * static_cast<int32_t>(w.k));
    }
    return;
  }
  static thread_local std::vector<int32_t> products;
  products.resize(count);
  const uint32_t no_term = 0;
  PackedTask product = task;
  product.a = ones;
  product.strip = 1;
  product.row_terms = &no_term;
  product.column_terms = nullptr;
  product.product = 1;
  product.m0 = 0;
  product.m1 = 1;
  product.out = nullptr;
  product.acc = products.data() - task.n0;
  detail::run_packed_task(PackedMethod::kDot, plan.level, product);
  // Padding: u' = 0, but 16 where pairs are spread out.
  const int64_t columns = is_sparse(w.spec) ? task.w.blocks * kTileBlock : w.k;
  for (size_t i = 0; i < count; ++i) {
    sums[i] = static_cast<uint32_t>(map.multiplier * products[i] +
                                    map.offset * static_cast<int32_t>(columns));
  }
}

const char* method_name(PackedMethod method) {
  switch (method) {
    case PackedMethod::kPopcount:
      return "popcount";
    case PackedMethod::kDot:
      return "dot";
    case PackedMethod::kTiles:
      return "tiles";
    case PackedMethod::kFloat:
      return "float";
    default:
      return "definition";
  }
}

// The codes of 4 columns from k on as a dword; 0 past the end.
uint32_t group_of_codes(const int8_t* row, int64_t k, int64_t size) {
  uint32_t group = 0;
  if (k + 4 <= size) {
    std::memcpy(&group, row + k, 4);
  } else if (k < size) {
    std::memcpy(&group, row + k, static_cast<size_t>(size - k));
  }
  return group;
}

// The bits of 32 columns from k on in the order of a line of 1-bit values: bit 8 i + j is column
// 4 j + i. A code is -1 or 1.
uint32_t bits_of_codes(const int8_t* row, int64_t k, int64_t size) {
  if (k + 32 <= size) {
    uint64_t pairs = 0;  // of groups, the later one in the upper half
    for (int j = 0; j < 8; j += 2) {
      uint64_t codes;
      std::memcpy(&codes, row + k + 4 * j, 8);
      pairs |= (~codes >> 7 & 0x0101010101010101u) << j;
    }
    return static_cast<uint32_t>(pairs) | static_cast<uint32_t>(pairs >> 32) << 1;
  }
  uint32_t bits = 0;
  for (int j = 0; j < 8; ++j) {
    // Sign bits of 4 codes, inverted; columns past the end are 0.
    const uint32_t group = group_of_codes(row, k + 4 * j, size);
    const int64_t valid = std::clamp<int64_t>(size - k - 4 * j, 0, 4);
    const uint32_t mask = valid == 4 ? 0x01010101u : (1u << (8 * valid)) / 255 & 0x01010101u;
    bits |= (~group >> 7 & mask) << j;
  }
  return bits;
}

}  // namespace

namespace detail {

void check_range(const char* operation, const OutputRange& range, int64_t rows, int64_t columns) {
  QUEST_CHECK(range.n0 % kTileRows == 0 && range.n0 >= 0 && range.n1 <= columns && range.m0 >= 0 &&
                  range.m1 <= rows,
              ErrorKind::kUsage,
              "{}: rows [{}, {}) of {} and columns [{}, {}) of {} must lie inside, columns start "
              "at a multiple of {}",
              operation, range.m0, range.m1, rows, range.n0, range.n1, columns, kTileRows);
}

void run_packed_task([[maybe_unused]] PackedMethod method, [[maybe_unused]] IsaLevel level,
                     [[maybe_unused]] const PackedTask& task) {
#ifdef __x86_64__
  if (method == PackedMethod::kTiles) return packed_tiles_amx(task);
  if (method == PackedMethod::kPopcount) {
    if (level >= IsaLevel::kAvx512Vnni) return packed_popcount_avx512vnni(task);
    if (level == IsaLevel::kAvx512) return packed_popcount_avx512(task);
    return packed_popcount_avx2(task);
  }
  if (level >= IsaLevel::kAvx512Vnni) return packed_dot_avx512vnni(task);
  if (level == IsaLevel::kAvx512) return packed_dot_avx512(task);
  packed_dot_avx2(task);
#endif
}

ValueMap value_map(const QuantSpec& spec) {
  const StoredFormat format = stored_format(spec);
  if (is_sparse(spec)) return {1, -(format.max_number + 1)};
  if (!format.is_affine) return {1, -format.max_number};
  return {format.multiplier, format.offset};
}

WeightTiles weight_tiles(const PackedWeight& w) {
  WeightTiles tiles;
  tiles.bits = w.tiles.bits;
  tiles.bytes = w.bytes;
  tiles.tile_bytes = w.tiles.tile_bytes();
  tiles.blocks = divide_up(w.k, kTileBlock);
  if (w.spec.grid == Grid::kUniform) return tiles;
  const StoredFormat format = stored_format(w.spec);
  if (is_sparse(w.spec)) {
    tiles.values = PackedValues::kSparse;
    tiles.pairs = w.pairs;
    tiles.pair_tile_bytes = sparse_tiles(w.n, w.k).pairs.tile_bytes();
  } else if (!format.numbers.empty()) {
    tiles.values = PackedValues::kTable;
    for (size_t i = 0; i < sizeof(tiles.table); ++i) {
      const size_t u = std::min(i % 16, format.numbers.size() - 1);
      tiles.table[i] = static_cast<uint8_t>(format.numbers[u] + format.max_number);
    }
  }
  return tiles;
}

ActivationLayout activation_layout(const PackedPlan& plan, int64_t m, int64_t k) {
  ActivationLayout layout;
  if (plan.method == PackedMethod::kFloat) return layout;
  const int64_t blocks = divide_up(k, kTileBlock);
  int64_t row_bytes = 0;
  switch (plan.method) {
    case PackedMethod::kPopcount:
      row_bytes = 4 * blocks;
      break;
    case PackedMethod::kTiles:
      row_bytes = round_up(k, kAmxDepth);
      break;
    case PackedMethod::kDot:
      row_bytes = kTileBlock * (plan.selects_codes ? round_up(blocks, 2) : blocks);
      layout.word = plan.selects_codes ? 8 : 4;
      break;
    default:
      row_bytes = k;
  }
  if (plan.method == PackedMethod::kTiles) {
    layout.strip = kAmxStrip;
  } else if (plan.method != PackedMethod::kDefinition) {
    while (layout.strip < std::min(m, kMaxStrip)) layout.strip *= 2;
  }
  layout.strips = divide_up(m, layout.strip);
  layout.strip_bytes = layout.strip * row_bytes;
  layout.strips_offset = round_up(4 * m, 64);
  layout.bytes = layout.strips_offset + round_up(layout.strips * layout.strip_bytes, 64);
  // The numbers of one bit have no offset.
  if (plan.method == PackedMethod::kDefinition || plan.method == PackedMethod::kPopcount) {
    return layout;
  }
  if (code_format(plan.activation).offset != 0) {
    layout.ones_offset = layout.bytes;
    layout.bytes += kTileBlock * round_up(blocks, 2);
  }
  return layout;
}

}  // namespace detail

std::string packed_plan_text(const PackedPlan& plan) {
  // The level whose code runs.
  IsaLevel level = plan.level;
  if (plan.method == PackedMethod::kFloat) level = std::min(level, IsaLevel::kAvx512);
  if (plan.method != PackedMethod::kTiles) level = std::min(level, IsaLevel::kAvx512Vnni);
  std::string text = method_name(plan.method);
  text += ", ";
  text += isa_level_name(level);
  if (plan.spreads_pairs) text += ", 4:8 spread out in the cache";
  if (plan.selects_codes) text += ", 4:8 by selection of codes";
  return text;
}

PackedPlan choose_packed_plan(const QuantSpec& weight, const QuantSpec& activation, int64_t m,
                              int64_t k, IsaLevel level) {
  PackedPlan plan;
  plan.level = effective_level(level);
  plan.activation = activation;
  const StoredFormat w = stored_format(weight);  // throws for grids without codes
  if (is_sparse(weight)) sparse_tiles(0, k);     // throws if K is no multiple of 8
  plan.spreads_pairs = is_sparse(weight) && plan.level != IsaLevel::kScalar;
  if (!activation.is_quantized() || !w.levels.empty()) {
    plan.method = PackedMethod::kFloat;
    return plan;
  }
  const CodeFormat a = code_format(activation);
  if (!a.is_integer) {
    plan.method = PackedMethod::kFloat;
    return plan;
  }
  const int64_t largest = int64_t{a.max_number} * w.max_number;
  const int64_t limit = std::numeric_limits<int32_t>::max();
  QUEST_CHECK(k <= limit / largest, ErrorKind::kUsage,
              "packed_gemm: sums over K={} of products up to {} can leave 32 bits; K may be at "
              "most {} for {} x {}",
              k, largest, limit / largest, to_string(activation), to_string(weight));

  // The choice, top to bottom.
  if (plan.level == IsaLevel::kScalar) {
    plan.method = PackedMethod::kDefinition;
  } else if (plan.level == IsaLevel::kAmx && m >= kMinRowsForTiles) {
    plan.method = PackedMethod::kTiles;
  } else if (weight.is_one_bit() && activation.is_one_bit()) {
    plan.method = PackedMethod::kPopcount;
  } else {
    plan.method = PackedMethod::kDot;
    // One strip: spreading the weights out costs more than to select codes for each row.
    plan.selects_codes = is_sparse(weight) && m <= detail::kMaxStrip;
    plan.spreads_pairs = plan.spreads_pairs && !plan.selects_codes;
  }
  return plan;
}

int64_t activation_bytes(const PackedPlan& plan, int64_t m, int64_t k) {
  return detail::activation_layout(plan, m, k).bytes;
}

void prepare_activations(const PackedPlan& plan, const int8_t* codes, int64_t m, int64_t k,
                         uint8_t* prepared) {
  prepare_activation_rows(plan, codes, m, k, 0, m, prepared);
}

void prepare_activation_rows(const PackedPlan& plan, const int8_t* codes, int64_t m, int64_t k,
                             int64_t m0, int64_t m1, uint8_t* prepared) {
  const ActivationLayout layout = detail::activation_layout(plan, m, k);
  if (plan.method == PackedMethod::kFloat) return;
  const bool sums = plan.method != PackedMethod::kPopcount;  // which has no use for them
  for (int64_t row = m0; sums && row < m1; ++row) {
    int32_t sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += codes[row * k + i];
    std::memcpy(prepared + 4 * row, &sum, 4);
  }
  uint8_t* strips = prepared + layout.strips_offset;
  if (plan.method == PackedMethod::kDefinition) {
    if (m1 > m0) std::memcpy(strips + m0 * k, codes + m0 * k, static_cast<size_t>((m1 - m0) * k));
    return;
  }
  const int64_t end = m1 == m ? layout.strips * layout.strip : m1;
  for (int64_t row = m0; row < end; ++row) {
    const int8_t* source = codes + row * k;
    const int64_t size = row < m ? k : 0;
    const int64_t r = row % layout.strip;
    uint8_t* strip = strips + row / layout.strip * layout.strip_bytes;
    const int64_t row_bytes = layout.strip_bytes / layout.strip;
    if (plan.method == PackedMethod::kTiles) {
      for (int64_t i = 0; i < row_bytes; i += detail::kAmxDepth) {
        uint8_t* line = strip + (i / detail::kAmxDepth * layout.strip + r) * detail::kAmxDepth;
        const int64_t count = std::clamp<int64_t>(size - i, 0, detail::kAmxDepth);
        if (count > 0) std::memcpy(line, source + i, static_cast<size_t>(count));
        std::memset(line + count, 0, static_cast<size_t>(detail::kAmxDepth - count));
      }
      continue;
    }
    if (layout.strip == 1 && plan.method == PackedMethod::kDot) {  // words lie in order
      std::memcpy(strip, source, static_cast<size_t>(size));
      std::memset(strip + size, 0, static_cast<size_t>(row_bytes - size));
      continue;
    }
    for (int64_t word = 0; word < row_bytes / 4; ++word) {
      const uint32_t value = plan.method == PackedMethod::kPopcount
                                 ? bits_of_codes(source, 32 * word, size)
                                 : group_of_codes(source, 4 * word, size);
      const int64_t at = 4 * word / layout.word * layout.word;
      std::memcpy(strip + at * layout.strip + r * layout.word + 4 * word % layout.word, &value, 4);
    }
  }
  if (layout.ones_offset >= 0 && m1 == m) {
    std::memset(prepared + layout.ones_offset, 1,
                static_cast<size_t>(layout.bytes - layout.ones_offset));
  }
}

void packed_gemm(const PackedPlan& plan, const PackedWeight& w, const PreparedActivations& a,
                 int64_t m0, int64_t m1, int64_t n0, int64_t n1, float* out, int64_t ldo,
                 int32_t* acc) {
  QUEST_ASSERT(plan.method != PackedMethod::kFloat, "a plan for packed_gemm_float");
  const OutputRange range{m0, m1, n0, n1, out, ldo};
  check_weight(w, range, a.m);
  if (range.is_empty()) return;
  const ActivationLayout layout = detail::activation_layout(plan, a.m, w.k);
  if (plan.method == PackedMethod::kDefinition) {
    const auto* codes = reinterpret_cast<const int8_t*>(a.prepared + layout.strips_offset);
    return detail::packed_gemm_scalar(plan.activation, w, codes, a.units, m0, m1, n0, n1, out, ldo,
                                      acc);
  }
  PackedTask task{range};
  task.w = detail::weight_tiles(w);
  task.w_units = w.units;
  task.a = a.prepared + layout.strips_offset;
  task.strip = layout.strip;
  task.strip_bytes = layout.strip_bytes;
  task.selects = plan.method == PackedMethod::kDot && plan.selects_codes;
  task.a_units = a.units;
  task.acc = acc;

  static thread_local std::vector<uint32_t> row_terms, column_terms;
  row_terms.resize(static_cast<size_t>(m1 - m0));
  if (plan.method == PackedMethod::kPopcount) {
    task.product = static_cast<uint32_t>(-2);
    std::fill(row_terms.begin(), row_terms.end(), static_cast<uint32_t>(w.k));
  } else {
    const CodeFormat a_format = code_format(plan.activation);
    const ValueMap map = task.selects ? ValueMap{} : detail::value_map(w.spec);
    task.product = static_cast<uint32_t>(map.multiplier * a_format.multiplier);
    for (int64_t m = m0; m < m1; ++m) {
      int32_t sum;
      std::memcpy(&sum, a.prepared + 4 * m, 4);
      row_terms[m - m0] =
          static_cast<uint32_t>(a_format.multiplier * map.offset) * static_cast<uint32_t>(sum);
    }
    if (a_format.offset != 0) {
      weight_sums(plan, w, task, a.prepared + layout.ones_offset, column_terms);
      for (uint32_t& term : column_terms) term *= static_cast<uint32_t>(a_format.offset);
      task.column_terms = column_terms.data();
    }
  }
  task.row_terms = row_terms.data();
  detail::run_packed_task(plan.method, plan.level, task);
}

void packed_gemm_float(const PackedWeight& w, const float* x, int64_t ldx, int64_t m0, int64_t m1,
                       int64_t n0, int64_t n1, float* out, int64_t ldo, IsaLevel level) {
  const OutputRange range{m0, m1, n0, n1, out, ldo};
  check_weight(w, range, m1);
  if (range.is_empty()) return;
  if (effective_level(level) == IsaLevel::kScalar) {
    return detail::packed_gemm_float_scalar(w, x, ldx, m0, m1, n0, n1, out, ldo);
  }
#ifdef __x86_64__
  const StoredFormat format = stored_format(w.spec);
  PackedFloatTask task{range};
  task.w = detail::weight_tiles(w);
  for (int i = 0; i < 16 && w.tiles.bits <= 4; ++i) {
    const auto u = static_cast<size_t>(i % (1 << w.tiles.bits));
    if (!format.levels.empty()) {
      task.levels[i] = format.levels[u];
    } else if (format.is_affine) {
      task.levels[i] = static_cast<float>(format.multiplier * static_cast<int>(u) + format.offset);
    } else if (u < format.numbers.size()) {
      task.levels[i] = format.numbers[u];
    }
  }
  task.is_uniform = w.spec.grid == Grid::kUniform;
  const ValueMap map = detail::value_map(w.spec);
  task.multiplier = static_cast<float>(map.multiplier);
  task.offset = static_cast<float>(map.offset);
  task.w_units = w.units;
  task.x = x;
  task.ldx = ldx;
  task.k = w.k;
  if (level >= IsaLevel::kAvx512) return detail::packed_float_avx512(task);
  detail::packed_float_avx2(task);
#endif
}

}  // namespace quest::kernels
