// Attention of deploy.h over 16 lanes L. See there for the order of every sum.
#pragma once

#include "quest/kernels/deploy_levels.h"
#include "quest/kernels/x86/exp.h"

namespace quest::kernels::detail {

// A key-value block's parts.
struct KvParts {
  const uint8_t* keys;
  const uint8_t* values;
  const float* key_units;
  const float* value_units;
};

inline __attribute__((always_inline)) KvParts kv_parts(const deploy::KvShape& shape,
                                                       const uint8_t* block) {
  const int64_t dim = shape.head_dim, padded = (dim + 15) / 16 * 16;
  const int64_t bytes = shape.format == deploy::KvFormat::kFp16 ? 2 : 1;
  const uint8_t* values = block + deploy::kKvBlock * dim * bytes;
  const uint8_t* units = values + deploy::kKvBlock * padded * bytes;
  return {block, values, reinterpret_cast<const float*>(units),
          reinterpret_cast<const float*>(units) + deploy::kKvBlock};
}

template <class L, bool kInt8>
inline __attribute__((always_inline)) typename L::F load_cached(const uint8_t* base,
                                                                int64_t index) {
  if constexpr (kInt8) {
    return L::to_float(L::load_i8(reinterpret_cast<const int8_t*>(base) + index));
  } else {
    return L::load_half(reinterpret_cast<const uint16_t*>(base) + index);
  }
}

// Rows of queries computed side by side, at most; each may be one of several tokens and heads.
inline constexpr int kAttendRows = 8;

// The scratch of one call.
template <class L>
struct AttendState {
  float* q;       // (kAttendRows, D), scaled
  float* scores;  // (kAttendRows, 64)
  float* out;     // (kAttendRows, D')
  float* sums;    // (kAttendRows, 16)
  float largest[kAttendRows];
  int64_t keys[kAttendRows];  // how many a row sees
  int64_t dim, padded;
};

// How many groups of lanes fit beside `rows` rows.
template <class L>
constexpr int groups_beside(int rows) {
  const int fit = L::kAccumulators / rows;
  return fit < 1 ? 1 : fit > 4 ? 4 : fit;
}

// scores (rows, 64) of `tiles` tiles of 16 keys.
template <class L, bool kInt8, int kRows>
void attend_scores(const AttendState<L>& s, int row, const KvParts& block, int64_t tiles) {
  using F = typename L::F;
  constexpr int kTiles = groups_beside<L>(kRows);
  const int64_t dim = s.dim;
  const float* q = s.q + row * dim;
  float* scores = s.scores + row * deploy::kKvBlock;
  for (int64_t tile = 0; tile < tiles; tile += kTiles) {
    F sum[kRows][kTiles];
    for (auto& of_row : sum) {
      for (F& value : of_row) value = L::zero();
    }
    const int64_t base = tile * dim * 16;
    for (int64_t d = 0; d < dim; ++d) {
      F keys[kTiles];
      for (int t = 0; t < kTiles; ++t) {
        keys[t] = load_cached<L, kInt8>(block.keys, base + (t * dim + d) * 16);
      }
      for (int r = 0; r < kRows; ++r) {
        const F value = L::set1(q[r * dim + d]);
        for (int t = 0; t < kTiles; ++t) sum[r][t] = L::fma(value, keys[t], sum[r][t]);
      }
    }
    for (int t = 0; t < kTiles; ++t) {
      for (int r = 0; r < kRows; ++r) {
        F score = sum[r][t];
        if constexpr (kInt8) {
          score = L::mul(score, L::load(block.key_units + (tile + t) * 16));
        }
        L::store(scores + r * deploy::kKvBlock + (tile + t) * 16, score);
      }
    }
  }
}

// One row's scores of `count` keys become weights; its sums and its output are rescaled.
template <class L, bool kInt8>
void attend_softmax(AttendState<L>& s, int row, const KvParts& block, int64_t count) {
  using F = typename L::F;
  float* scores = s.scores + row * deploy::kKvBlock;
  const F none = L::set1(-__builtin_inff());
  F score[4];
  F largest = none;
  for (int t = 0; t < 4; ++t) {
    const int64_t inside = count - 16 * t;
    if (inside <= 0) {
      score[t] = none;
    } else {
      score[t] = L::load(scores + 16 * t);
      if (inside < 16) {
        const auto bits = static_cast<uint16_t>((1u << inside) - 1u);
        score[t] = L::select(L::from_bits(bits), score[t], none);
      }
    }
    largest = L::max(largest, score[t]);
  }
  const float old = s.largest[row], block_largest = L::maximum(largest);
  const float now = old > block_largest ? old : block_largest;
  s.largest[row] = now;
  const F shift = L::set1(now);
  const F rescale = exp_lanes<L>(L::sub(L::set1(old), shift));
  F sum = L::mul(L::load(s.sums + row * 16), rescale);
  for (int t = 0; t < 4; ++t) {
    if (count <= 16 * t) break;
    F weight = exp_lanes<L>(L::sub(score[t], shift));
    sum = L::add(sum, weight);
    if constexpr (kInt8) weight = L::mul(weight, L::load(block.value_units + 16 * t));
    L::store(scores + 16 * t, weight);
  }
  L::store(s.sums + row * 16, sum);
  float* out = s.out + row * s.padded;
  for (int64_t d = 0; d < s.padded; d += 16) L::store(out + d, L::mul(L::load(out + d), rescale));
}

// out (rows, D') += weights of keys [begin, end) times their values.
template <class L, bool kInt8, int kRows>
void attend_values(const AttendState<L>& s, int row, const KvParts& block, int64_t begin,
                   int64_t end) {
  using F = typename L::F;
  constexpr int kGroups = groups_beside<L>(kRows);
  const float* weights = s.scores + row * deploy::kKvBlock;
  const auto columns = [&]<int kCount>(int64_t d) __attribute__((always_inline)) {
    F sum[kRows][kCount];
    for (int r = 0; r < kRows; ++r) {
      for (int g = 0; g < kCount; ++g) {
        sum[r][g] = L::load(s.out + (row + r) * s.padded + d + 16 * g);
      }
    }
    for (int64_t j = begin; j < end; ++j) {
      F values[kCount];
      for (int g = 0; g < kCount; ++g) {
        values[g] = load_cached<L, kInt8>(block.values, j * s.padded + d + 16 * g);
      }
      for (int r = 0; r < kRows; ++r) {
        const F weight = L::set1(weights[r * deploy::kKvBlock + j]);
        for (int g = 0; g < kCount; ++g) sum[r][g] = L::fma(weight, values[g], sum[r][g]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int g = 0; g < kCount; ++g) {
        L::store(s.out + (row + r) * s.padded + d + 16 * g, sum[r][g]);
      }
    }
  };
  int64_t d = 0;
  for (; d + 16 * kGroups <= s.padded; d += 16 * kGroups) columns.template operator()<kGroups>(d);
  for (; d < s.padded; d += 16) columns.template operator()<1>(d);
}

// f.template operator()<n>(row) for groups of 8, 4, 3, 2 and 1 rows, as many at once as L can hold.
template <class L, class Function>
inline __attribute__((always_inline)) void over_rows(int rows, const Function& f) {
  int row = 0;
  if constexpr (L::kAccumulators >= 8) {
    for (; row + 8 <= rows; row += 8) f.template operator()<8>(row);
  }
  for (; row + 4 <= rows; row += 4) f.template operator()<4>(row);
  for (; row + 3 <= rows; row += 3) f.template operator()<3>(row);
  for (; row + 2 <= rows; row += 2) f.template operator()<2>(row);
  for (; row < rows; ++row) f.template operator()<1>(row);
}

template <class L, bool kInt8>
void attend_rows(const deploy::KvShape& shape, const deploy::AttendTask& task, AttendState<L>& s,
                 int rows) {
  for (int64_t i = 0; i * deploy::kKvBlock < s.keys[rows - 1]; ++i) {
    const int64_t base = i * deploy::kKvBlock;
    const KvParts block = kv_parts(shape, task.blocks[i] + task.block_offset);
    int first = 0;  // rows see ever more keys: those before it see none of this block
    while (s.keys[first] <= base) ++first;
    const auto count = [&](int row) __attribute__((always_inline)) {
      const int64_t inside = s.keys[row] - base;
      return inside < deploy::kKvBlock ? inside : deploy::kKvBlock;
    };
    const int active = rows - first;
    const int64_t tiles = (count(rows - 1) + 15) / 16;
    over_rows<L>(
        active, [&]<int kRows>(int row) __attribute__((always_inline)) {
          attend_scores<L, kInt8, kRows>(s, first + row, block, tiles);
        });
    for (int row = first; row < rows; ++row) attend_softmax<L, kInt8>(s, row, block, count(row));
    // Keys that all of them see together, then each row's own rest.
    const int64_t common = count(first);
    over_rows<L>(
        active, [&]<int kRows>(int row) __attribute__((always_inline)) {
          attend_values<L, kInt8, kRows>(s, first + row, block, 0, common);
        });
    for (int row = first; row < rows; ++row) {
      if (count(row) > common) attend_values<L, kInt8, 1>(s, row, block, common, count(row));
    }
  }
}

template <class L>
void attend_lanes(const deploy::KvShape& shape, const deploy::AttendTask& task, void* scratch) {
  AttendState<L> s;
  s.dim = shape.head_dim;
  s.padded = (s.dim + 15) / 16 * 16;
  s.q = static_cast<float*>(scratch);
  s.scores = s.q + kAttendRows * s.padded;
  s.out = s.scores + kAttendRows * deploy::kKvBlock;
  s.sums = s.out + kAttendRows * s.padded;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(s.dim));
  const int64_t all = task.tokens * task.group;
  for (int64_t begin = 0; begin < all; begin += kAttendRows) {
    const int rows = static_cast<int>(all - begin < kAttendRows ? all - begin : kAttendRows);
    for (int r = 0; r < rows; ++r) {
      const int64_t token = (begin + r) / task.group, head = (begin + r) % task.group;
      const float* q = task.q + token * task.q_stride + head * s.dim;
      for (int64_t d = 0; d < s.dim; ++d) s.q[r * s.dim + d] = q[d] * scale;
      for (int64_t d = 0; d < s.padded; ++d) s.out[r * s.padded + d] = 0.0f;
      for (int64_t d = 0; d < 16; ++d) s.sums[r * 16 + d] = 0.0f;
      s.largest[r] = -__builtin_inff();
      s.keys[r] = task.first_position + token + 1;
    }
    if (shape.format == deploy::KvFormat::kInt8) {
      attend_rows<L, true>(shape, task, s, rows);
    } else {
      attend_rows<L, false>(shape, task, s, rows);
    }
    for (int r = 0; r < rows; ++r) {
      const int64_t token = (begin + r) / task.group, head = (begin + r) % task.group;
      float* out = task.out + token * task.out_stride + head * s.dim;
      const float sum = L::sum(L::load(s.sums + r * 16));
      for (int64_t d = 0; d < s.dim; ++d) out[d] = s.out[r * s.padded + d] / sum;
    }
  }
}

// 16 codes of x; see deploy.h for the rounding.
template <class L>
inline __attribute__((always_inline)) void store_codes(int8_t* p, typename L::F x,
                                                       typename L::F inverse) {
  x = L::max(L::min(L::mul(x, inverse), L::set1(127.0f)), L::set1(-127.0f));
  L::store_i8(p, L::to_int(x));
}

template <class L>
inline __attribute__((always_inline)) typename L::F load_some(const float* p, int64_t n) {
  return n >= L::kWidth ? L::load(p) : L::load_partial(p, static_cast<int>(n));
}

// The unit of one position, and 127 / max|x|.
template <class L>
inline __attribute__((always_inline)) float cache_unit(const float* x, int64_t dim,
                                                       float& inverse) {
  typename L::F largest = L::zero();
  for (int64_t d = 0; d < dim; d += 16) {
    largest = L::max(largest, L::abs(load_some<L>(x + d, dim - d)));
  }
  const float maximum = L::maximum(largest);
  inverse = maximum > 1e-30f ? 127.0f / maximum : 0.0f;
  return maximum / 127.0f;
}

template <class L>
void append_kv_lanes(const deploy::KvShape& shape, const float* k, const float* v, int64_t slot,
                     uint8_t* block) {
  using F = typename L::F;
  const int64_t dim = shape.head_dim, padded = (dim + 15) / 16 * 16;
  const KvParts parts = kv_parts(shape, block);
  const int64_t key_base = slot / 16 * dim * 16 + slot % 16;
  if (shape.format == deploy::KvFormat::kInt8) {
    auto* keys = reinterpret_cast<int8_t*>(const_cast<uint8_t*>(parts.keys));
    auto* values = reinterpret_cast<int8_t*>(const_cast<uint8_t*>(parts.values));
    float inverse_k = 0, inverse_v = 0;
    const_cast<float*>(parts.key_units)[slot] = cache_unit<L>(k, dim, inverse_k);
    const_cast<float*>(parts.value_units)[slot] = cache_unit<L>(v, dim, inverse_v);
    for (int64_t d = 0; d < padded; d += 16) {
      int8_t codes[16];
      store_codes<L>(codes, load_some<L>(k + d, dim - d), L::set1(inverse_k));
      for (int64_t i = 0; i < 16 && d + i < dim; ++i) keys[key_base + (d + i) * 16] = codes[i];
      store_codes<L>(values + slot * padded + d, load_some<L>(v + d, dim - d), L::set1(inverse_v));
    }
    return;
  }
  auto* keys = reinterpret_cast<uint16_t*>(const_cast<uint8_t*>(parts.keys));
  auto* values = reinterpret_cast<uint16_t*>(const_cast<uint8_t*>(parts.values));
  const F limit = L::set1(65504.0f), lowest = L::set1(-65504.0f);
  for (int64_t d = 0; d < padded; d += 16) {
    uint16_t halves[16];
    // NaN stays NaN: min and max return their second operand for it.
    L::store_half(halves, L::max(lowest, L::min(limit, load_some<L>(k + d, dim - d))));
    for (int64_t i = 0; i < 16 && d + i < dim; ++i) keys[key_base + (d + i) * 16] = halves[i];
    L::store_half(values + slot * padded + d,
                  L::max(lowest, L::min(limit, load_some<L>(v + d, dim - d))));
  }
}

}  // namespace quest::kernels::detail
