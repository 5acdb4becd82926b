#include "quest/kernels/gemm_lowbit.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/gemm_lowbit_task.h"
#include "quest/kernels/product_task.h"

namespace quest::kernels {

namespace {

using detail::effective_level;

constexpr int64_t kAlignment = 64;

// Groups of 4 along K in a tile: AMX eats 16 at a time, so its tiles are padded to that.
int64_t tile_groups(IsaLevel level, int64_t k) {
  const int64_t groups = (k + 3) / 4;
  return level == IsaLevel::kAmx ? round_up(groups, 16) : groups;
}

void check_format(const CodeFormat& format, const char* side) {
  QUEST_CHECK(format.is_integer, ErrorKind::kUsage,
              "gemm_lowbit multiplies integer codes, but the {} side's grid is a table of levels; "
              "dequantize it and use a floating-point product",
              side);
  QUEST_CHECK(
      format.multiplier >= 1 && format.max_number >= 0 && detail::max_code(format) <= 128,
      ErrorKind::kUsage,
      "gemm_lowbit: the {} side's code format (multiplier {}, offset {}, largest number {}) "
      "does not fit codes of 8 bits",
      side, format.multiplier, format.offset, format.max_number);
}

void check_range(int64_t k, int64_t largest_product) {
  const int64_t limit = std::numeric_limits<int32_t>::max();
  QUEST_CHECK(
      largest_product == 0 || k <= limit / largest_product, ErrorKind::kUsage,
      "gemm_lowbit: sums over K={} of products up to {} can leave 32 bits; K may be at most "
      "{} for this pair of formats",
      k, largest_product, limit / std::max<int64_t>(largest_product, 1));
}

// Adds the same byte to each byte of x.
uint32_t add_to_bytes(uint32_t x, uint32_t byte) {
  const uint32_t y = byte * 0x01010101u;
  return ((x & 0x7f7f7f7fu) + (y & 0x7f7f7f7fu)) ^ ((x ^ y) & 0x80808080u);
}

// Groups [g0, g1) of one weight row, written to its column of a tile (whose rows are 64 groups
// wide).
void fill_column(const int8_t* row, int64_t k, int64_t g0, int64_t g1, uint32_t shift,
                 int8_t* tile) {
  constexpr int64_t kStride = detail::kTileColumns * 4;
  __builtin_prefetch(row + 4 * g1);  // the next block comes after 63 other rows
  for (int64_t g = g0; g < g1; ++g) {
    uint32_t codes = 0;
    if (4 * g + 4 <= k) {
      std::memcpy(&codes, row + 4 * g, sizeof(codes));
      codes = add_to_bytes(codes, shift);
    } else {
      for (int64_t i = 0; i < k - 4 * g; ++i) {
        const auto entry = static_cast<uint8_t>(static_cast<uint8_t>(row[4 * g + i]) + shift);
        codes |= static_cast<uint32_t>(entry) << (8 * i);
      }
    }
    std::memcpy(tile + g * kStride, &codes, sizeof(codes));
  }
}

// Tile order of gemm_lowbit_task.h. A block of 16 groups is a cache line of each of the 64 rows
// read and 4 KB written.
void fill_tiles(PackedCodes& packed, const int8_t* codes, int64_t n0, int64_t n1) {
  constexpr int64_t kBlock = 16;
  const int64_t groups = (packed.k + 3) / 4;
  const int64_t tile_bytes = tile_groups(packed.level, packed.k) * detail::kTileColumns * 4;
  const auto shift = static_cast<uint32_t>(detail::max_code(packed.format));
  int8_t* tile = packed.tiles.data() + packed.tile_offset + n0 / detail::kTileColumns * tile_bytes;
  for (int64_t n = n0; n < n1; n += detail::kTileColumns, tile += tile_bytes) {
    const int64_t columns = std::min<int64_t>(n1 - n, detail::kTileColumns);
    for (int64_t g = 0; g < groups; g += kBlock) {
      for (int64_t c = 0; c < columns; ++c) {
        fill_column(codes + (n + c) * packed.k, packed.k, g, std::min(g + kBlock, groups), shift,
                    tile + 4 * c);
      }
    }
  }
}

}  // namespace

namespace detail {

int max_code(const CodeFormat& format) {
  return (format.max_number + std::abs(format.offset)) / std::max(format.multiplier, 1);
}

template <class T>
GemmTask make_task(const CodeFormat& a_format, const int8_t* a, const float* a_units, int64_t m0,
                   int64_t m1, const PackedCodes& w, const float* w_units, int64_t n0, int64_t n1,
                   T* out, int64_t ldo) {
  GemmTask task;
  task.a = a;
  task.k = w.k;
  task.k_groups = tile_groups(w.level, w.k);
  task.a_units = a_units;
  task.m0 = m0;
  task.m1 = m1;
  task.tiles = reinterpret_cast<const uint8_t*>(w.tiles.data() + w.tile_offset);
  task.w_sums = w.row_sums.data();
  task.w_units = w_units;
  task.n0 = n0;
  task.n1 = n1;
  task.a_max_code = max_code(a_format);
  const int shift = max_code(w.format);
  task.w_max_tile = 2 * shift;
  const int ma = a_format.multiplier, oa = a_format.offset;
  const int mw = w.format.multiplier, ow = w.format.offset;
  task.product = static_cast<uint32_t>(ma * mw);
  task.row_factor = static_cast<uint32_t>(ma * ow - ma * mw * shift);
  task.column_factor = static_cast<uint32_t>(mw * oa);
  task.constant = static_cast<uint32_t>(oa * ow * w.k);
  task.out = out;
  task.ldo = ldo;
  task.out_is_bfloat16 = std::is_same_v<T, bfloat16>;
  return task;
}
template GemmTask make_task<float>(const CodeFormat&, const int8_t*, const float*, int64_t, int64_t,
                                   const PackedCodes&, const float*, int64_t, int64_t, float*,
                                   int64_t);
template GemmTask make_task<bfloat16>(const CodeFormat&, const int8_t*, const float*, int64_t,
                                      int64_t, const PackedCodes&, const float*, int64_t, int64_t,
                                      bfloat16*, int64_t);

}  // namespace detail

PackedCodes make_packed_codes(const CodeFormat& format, int64_t n, int64_t k, IsaLevel level) {
  QUEST_CHECK(n >= 0 && k >= 0, ErrorKind::kUsage, "pack_codes: {} rows of {} codes", n, k);
  check_format(format, "weight");
  check_range(k, format.max_number);
  PackedCodes packed;
  packed.level = effective_level(level);
  packed.n = n;
  packed.k = k;
  packed.format = format;
  packed.row_sums.resize(static_cast<size_t>(n));
  const int64_t bytes = packed.level == IsaLevel::kScalar
                            ? n * k
                            : round_up(n, detail::kTileColumns) * tile_groups(packed.level, k) * 4;
  packed.tiles.resize(static_cast<size_t>(bytes + kAlignment));
  const auto start = reinterpret_cast<uintptr_t>(packed.tiles.data());
  packed.tile_offset = round_up(static_cast<int64_t>(start % kAlignment), kAlignment) -
                       static_cast<int64_t>(start % kAlignment);
  return packed;
}

void pack_rows(PackedCodes& packed, const int8_t* codes, int64_t n0, int64_t n1) {
  QUEST_CHECK(
      n0 % gemm_lowbit_column_tile(packed.level) == 0 && n0 >= 0 && n0 <= n1 && n1 <= packed.n,
      ErrorKind::kUsage,
      "pack_rows: rows [{}, {}) of {} must lie inside and start at a multiple of {}", n0, n1,
      packed.n, gemm_lowbit_column_tile(packed.level));
  const int64_t k = packed.k;
  for (int64_t row = n0; row < n1; ++row) {
    int32_t sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += codes[row * k + i];
    packed.row_sums[static_cast<size_t>(row)] = sum;
  }
  if (packed.level == IsaLevel::kScalar) {
    std::copy_n(codes + n0 * k, (n1 - n0) * k, packed.tiles.data() + packed.tile_offset + n0 * k);
  } else {
    fill_tiles(packed, codes, n0, n1);
  }
}

PackedCodes pack_codes(const CodeFormat& format, const int8_t* codes, int64_t n, int64_t k,
                       IsaLevel level) {
  PackedCodes packed = make_packed_codes(format, n, k, level);
  pack_rows(packed, codes, 0, n);
  return packed;
}

template <class T>
void gemm_lowbit(const CodeFormat& a_format, const int8_t* a, const float* a_units, int64_t m0,
                 int64_t m1, const PackedCodes& w, const float* w_units, int64_t n0, int64_t n1,
                 T* out, int64_t ldo) {
  check_format(a_format, "activation");
  check_range(w.k, int64_t{a_format.max_number} * w.format.max_number);
  QUEST_CHECK(n0 % gemm_lowbit_column_tile(w.level) == 0 && n0 >= 0 && n1 <= w.n && m0 >= 0,
              ErrorKind::kUsage,
              "gemm_lowbit: columns [{}, {}) of {} must lie inside and start at a multiple of {}",
              n0, n1, w.n, gemm_lowbit_column_tile(w.level));
  if (m0 >= m1 || n0 >= n1) return;
  switch (w.level) {
#ifdef __x86_64__
    case IsaLevel::kAmx:
      return detail::gemm_amx(
          detail::make_task(a_format, a, a_units, m0, m1, w, w_units, n0, n1, out, ldo));
    case IsaLevel::kAvx512Vnni:
      return detail::gemm_avx512vnni(
          detail::make_task(a_format, a, a_units, m0, m1, w, w_units, n0, n1, out, ldo));
    case IsaLevel::kAvx512:
      return detail::gemm_avx512(
          detail::make_task(a_format, a, a_units, m0, m1, w, w_units, n0, n1, out, ldo));
    case IsaLevel::kAvx2:
      return detail::gemm_avx2(
          detail::make_task(a_format, a, a_units, m0, m1, w, w_units, n0, n1, out, ldo));
#endif
    default:
      return detail::gemm_scalar(a_format, a, a_units, m0, m1, w, w_units, n0, n1, out, ldo);
  }
}

template void gemm_lowbit<float>(const CodeFormat&, const int8_t*, const float*, int64_t, int64_t,
                                 const PackedCodes&, const float*, int64_t, int64_t, float*,
                                 int64_t);
template void gemm_lowbit<bfloat16>(const CodeFormat&, const int8_t*, const float*, int64_t,
                                    int64_t, const PackedCodes&, const float*, int64_t, int64_t,
                                    bfloat16*, int64_t);

int64_t gemm_lowbit_column_tile(IsaLevel level) {
  return effective_level(level) == IsaLevel::kScalar ? 1 : detail::kTileColumns;
}

const char* gemm_lowbit_plan(IsaLevel level) {
  return isa_level_name(effective_level(level)).data();
}

}  // namespace quest::kernels
