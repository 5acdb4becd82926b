#include "quest/kernels/deploy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include <fmt/format.h>

#include "quest/base/float16.h"
#include "quest/kernels/float_kernels_testing.h"
#include "quest/quant/sum_of_squares.h"

namespace quest::kernels::deploy {
namespace {

using testing::kFloatEps;
using testing::random_values;
using testing::same_bits;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const int64_t kSizes[] = {1, 2, 15, 16, 17, 31, 33, 255, 257, 1024, 1041};

TEST(Deploy, RowOperationsHaveTheSameBitsAtAllLevels) {
  for (const int64_t n : kSizes) {
    constexpr int64_t kRows = 3;
    const auto x = random_values<float>(kRows * n, 1), weight = random_values<float>(n, 2);
    const auto gate_up = random_values<float>(kRows * 2 * n, 3, 10.0);
    std::vector<std::vector<float>> results;
    for (const IsaLevel level : available_isa_levels()) {
      std::vector<float> norm(x.size()), mlp(x.size()), sum = x;
      rms_norm(x.data(), weight.data(), kRows, n, 1e-5f, norm.data(), level);
      swiglu(gate_up.data(), kRows, n, mlp.data(), level);
      add(gate_up.data(), kRows * n, sum.data(), level);
      std::vector<float> all = norm;
      all.insert(all.end(), mlp.begin(), mlp.end());
      all.insert(all.end(), sum.begin(), sum.end());
      results.push_back(all);
      EXPECT_TRUE(same_bits(all, results.front())) << isa_level_name(level) << ", n=" << n;
    }
    for (int64_t row = 0; row < kRows; ++row) {
      double squares = 0;
      for (int64_t i = 0; i < n; ++i) squares += std::pow(double(x[row * n + i]), 2);
      const double inverse = 1 / std::sqrt(squares / double(n) + 1e-5);
      const float sum = sum_of_squares<float>(std::span(x).subspan(row * n, n));
      const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + 1e-5f);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(results[0][row * n + i], x[row * n + i] * scale * weight[i]);
        const double want = x[row * n + i] * inverse * weight[i];
        // A sum of positive terms by a tree: a rounding for each of its levels, of which the root
        // leaves half; then 5 more.
        ASSERT_NEAR(results[0][row * n + i], want,
                    std::abs(want) * kFloatEps * ((std::log2(double(n)) + 2) / 2 + 5));
        const double gate = gate_up[row * 2 * n + i], up = gate_up[row * 2 * n + n + i];
        const double mlp = gate / (1 + std::exp(-gate)) * up;
        ASSERT_NEAR(results[0][kRows * n + row * n + i], mlp, std::abs(mlp) * 12 * kFloatEps);
      }
    }
  }
}

TEST(Deploy, LogSumExp) {
  for (const int64_t n : kSizes) {
    for (const double spread : {0.01, 3.0, 50.0}) {
      auto x = random_values<float>(n, 4, spread);
      const double largest = *std::max_element(x.begin(), x.end());
      double sum = 0;
      for (const float value : x) sum += std::exp(value - largest);
      std::vector<double> values;
      for (const IsaLevel level : available_isa_levels()) {
        const LogSumExp got = log_sum_exp(x.data(), n, level);
        values.push_back(got.value);
        EXPECT_EQ(got.largest, float(largest));
        EXPECT_EQ(got.value, values.front()) << isa_level_name(level);
      }
      // Relative error of the sum: difference and exponential (the difference's own rounding is
      // relative to at most 104), then at most 70 roundings.
      const double bound = kFloatEps * (104 + 2 + 70);
      EXPECT_NEAR(values.front(), largest + std::log(sum), bound) << n << " " << spread;
    }
  }
  for (const IsaLevel level : available_isa_levels()) {
    for (const int64_t n : {1, 16, 20, 2000}) {
      for (int64_t place = 0; place < n; place += std::max<int64_t>(1, n / 7)) {
        std::vector<float> x(n, 1.0f);
        x[place] = -kInf;
        const bool all = n == 1;
        EXPECT_EQ(std::isnan(log_sum_exp(x.data(), n, level).value), all) << n;
        x[place] = kInf;
        EXPECT_TRUE(std::isnan(log_sum_exp(x.data(), n, level).value)) << n << " " << place;
        x[place] = kNan;
        EXPECT_TRUE(std::isnan(log_sum_exp(x.data(), n, level).value)) << n << " " << place;
      }
    }
  }
}

TEST(Float16, EveryHalfReturnsAndEveryMidpointGoesToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_EQ(float_to_half(value), half | 0x200);
      continue;
    }
    ASSERT_EQ(float_to_half(value), half);
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float next = half_to_float(static_cast<uint16_t>(half + 1));
    const float middle = 0.5f * (value + next);  // exact
    const auto even = static_cast<uint16_t>(half & 1 ? half + 1 : half);
    ASSERT_EQ(float_to_half(middle), even) << value;
    ASSERT_EQ(float_to_half(std::nextafter(middle, value)), half);
    ASSERT_EQ(float_to_half(std::nextafter(middle, next)), half + 1);
  }
  EXPECT_EQ(float_to_half(65519.99f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(half_to_float(0x0001), 0x1p-24f);
}

struct Cache {
  std::vector<std::vector<uint8_t>> storage;
  std::vector<const uint8_t*> blocks;
};

Cache make_cache(const KvShape& shape, const std::vector<float>& k, const std::vector<float>& v,
                 int64_t positions, IsaLevel level) {
  Cache cache;
  for (int64_t p = 0; p < positions; ++p) {
    if (p % kKvBlock == 0) cache.storage.emplace_back(shape.block_bytes());
    append_kv(shape, k.data() + p * shape.head_dim, v.data() + p * shape.head_dim, p % kKvBlock,
              cache.storage.back().data(), level);
  }
  for (const auto& block : cache.storage) cache.blocks.push_back(block.data());
  return cache;
}

std::vector<float> run_attend(const KvShape& shape, const Cache& cache, const std::vector<float>& q,
                              int64_t tokens, int64_t group, int64_t first, IsaLevel level) {
  const int64_t stride = group * shape.head_dim;
  std::vector<float> out(q.size());
  std::vector<uint8_t> scratch(attend_scratch_bytes(shape) + 64);
  void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) & ~63);
  attend(shape,
         {.blocks = cache.blocks.data(),
          .q = q.data(),
          .q_stride = stride,
          .tokens = tokens,
          .group = group,
          .first_position = first,
          .out = out.data(),
          .out_stride = stride},
         aligned, level);
  return out;
}

// What the cache holds of a value.
std::vector<float> cached(const KvShape& shape, const std::vector<float>& x, int64_t positions) {
  std::vector<float> y(x.size());
  for (int64_t p = 0; p < positions; ++p) {
    float largest = 0;
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      largest = std::max(largest, std::abs(x[p * shape.head_dim + d]));
    }
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      const float value = x[p * shape.head_dim + d];
      y[p * shape.head_dim + d] =
          shape.format == KvFormat::kFp16
              ? half_to_float(float_to_half(value))
              : largest / 127.0f * std::nearbyint(value * (127.0f / largest));
    }
  }
  return y;
}

void check_attention(const KvShape& shape, int64_t tokens, int64_t group, int64_t first) {
  SCOPED_TRACE(fmt::format("format {}, D={}, {} tokens, group {}, from {}", int(shape.format),
                           shape.head_dim, tokens, group, first));
  const int64_t dim = shape.head_dim, positions = first + tokens;
  const auto k = random_values<float>(positions * dim, 5, 2.0);
  const auto v = random_values<float>(positions * dim, 6);
  const auto q = random_values<float>(tokens * group * dim, 7, 1.0);
  const Cache reference_cache = make_cache(shape, k, v, positions, IsaLevel::kScalar);
  const auto want = run_attend(shape, reference_cache, q, tokens, group, first, IsaLevel::kScalar);
  for (const IsaLevel level : available_isa_levels()) {
    const Cache cache = make_cache(shape, k, v, positions, level);
    ASSERT_EQ(cache.storage, reference_cache.storage) << isa_level_name(level);
    ASSERT_TRUE(same_bits(run_attend(shape, cache, q, tokens, group, first, level), want))
        << isa_level_name(level);
    // Each token alone gives the same bits.
    for (int64_t t = 0; t < tokens; t += std::max<int64_t>(1, tokens / 5)) {
      const std::vector<float> one(q.begin() + t * group * dim, q.begin() + (t + 1) * group * dim);
      const auto alone = run_attend(shape, cache, one, 1, group, first + t, level);
      ASSERT_EQ(
          std::memcmp(alone.data(), want.data() + t * group * dim, alone.size() * sizeof(float)), 0)
          << "token " << t;
    }
  }
  const auto kc = cached(shape, k, positions), vc = cached(shape, v, positions);
  for (int64_t row = 0; row < tokens * group; ++row) {
    const int64_t keys = first + row / group + 1;
    std::vector<double> weights(keys);
    double total = 0, largest = -1e300, magnitude = 0;
    for (int64_t j = 0; j < keys; ++j) {
      double score = 0, terms = 0;
      for (int64_t d = 0; d < dim; ++d) {
        score += double(q[row * dim + d]) * kc[j * dim + d];
        terms += std::abs(double(q[row * dim + d]) * kc[j * dim + d]);
      }
      weights[j] = score / std::sqrt(double(dim));
      magnitude = std::max(magnitude, terms / std::sqrt(double(dim)));
      largest = std::max(largest, weights[j]);
    }
    for (double& w : weights) total += (w = std::exp(w - largest));
    for (int64_t d = 0; d < dim; ++d) {
      double out = 0, terms = 0;
      for (int64_t j = 0; j < keys; ++j) {
        out += weights[j] * vc[j * dim + d] / total;
        terms += weights[j] * std::abs(vc[j * dim + d]) / total;
      }
      // Scores: D + 3 roundings of their terms, relative errors of the weights, twice (weight and
      // sum); sums over the keys: at most one rounding per key and 3 per block.
      const double bound = kFloatEps * (2 * magnitude * double(dim + 6) +
                                        2 * double(keys + 3 * (keys / 64 + 1) + 8));
      ASSERT_NEAR(want[row * dim + d], out, terms * bound + 1e-30);
    }
  }
}

TEST(Deploy, AttentionEqualsTheReferenceAndAllLevels) {
  for (const KvFormat format : {KvFormat::kFp16, KvFormat::kInt8}) {
    for (const int64_t dim : {2, 24, 64, 128}) {
      const KvShape shape{format, dim};
      EXPECT_EQ(shape.block_bytes() % 64, 0);
      check_attention(shape, 1, 1, 0);
      check_attention(shape, 1, 3, 63);
      check_attention(shape, 1, 8, 64);
      check_attention(shape, 5, 1, 129);
      check_attention(shape, 70, 2, 0);
      check_attention(shape, 33, 5, 200);
    }
  }
}

TEST(Deploy, CacheHoldsExtremes) {
  const KvShape half{KvFormat::kFp16, 16}, bytes{KvFormat::kInt8, 16};
  std::vector<float> x(16, 0.0f), zero(16, 0.0f);
  x = {1e6f, -1e6f, 1e-9f, -1e-9f, 65504, 65519, -kInf, kInf, 1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<std::vector<uint8_t>> blocks;
  for (const IsaLevel level : available_isa_levels()) {
    std::vector<uint8_t> block(half.block_bytes() + bytes.block_bytes());
    append_kv(half, x.data(), x.data(), 63, block.data(), level);
    append_kv(bytes, zero.data(), x.data(), 63, block.data() + half.block_bytes(), level);
    std::vector<float> tiny(16, 1e-40f);
    append_kv(bytes, tiny.data(), zero.data(), 0, block.data() + half.block_bytes(), level);
    blocks.push_back(block);
    EXPECT_EQ(block, blocks.front()) << isa_level_name(level);
    uint16_t value;
    std::memcpy(&value, block.data() + half.key_bytes() + 63 * 32, 2);
    EXPECT_EQ(half_to_float(value), 65504.0f);
  }
}

}  // namespace
}  // namespace quest::kernels::deploy
