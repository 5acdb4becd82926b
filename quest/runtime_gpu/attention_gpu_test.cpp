// The paged cache and the attention of the engine on a GPU (quest/kernels/cuda/kv_cache.h,
// attention_decode.h) against the CPU's and against FP64.
#include <bit>
#include <cmath>

#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "quest/kernels/cuda/attention_decode.h"
#include "quest/model/rope_table.h"
#include "quest/runtime_gpu/rotated_rows_testing.h"
#include "quest/runtime_gpu/testing_cache.h"

namespace quest {
namespace {

using gpu_format = kernels::cuda::deploy::KvFormat;
using ops::current_stream;
using ops::data;
using testing::CpuLayer;
using testing::expect_same_bits;
using testing::GpuCache;
using testing::HeadSizes;
using testing::normal;
using testing::unwritten;
namespace gpu = kernels::cuda::deploy;

class AttentionGpu : public testing::GpuTest {};

constexpr int64_t kLayers = 2, kLayer = 1;

const char* name_of(gpu_format format) {
  return format == gpu_format::kBf16 ? "bf16" : format == gpu_format::kFp16 ? "fp16" : "int8";
}

// Sequences of these lengths, every position of which is filled; slots are not in order.
struct Sequences {
  std::vector<int32_t> lengths;

  std::vector<int32_t> slot, position;  // of all rows
  explicit Sequences(std::vector<int32_t> of) : lengths(std::move(of)) {
    for (size_t s = 0; s < lengths.size(); ++s) {
      for (int32_t p = 0; p < lengths[s]; ++p) {
        slot.push_back(slot_of(s));
        position.push_back(p);
      }
    }
  }
  int32_t slot_of(size_t s) const { return static_cast<int32_t>(lengths.size() - s); }
  int64_t slots() const { return static_cast<int64_t>(lengths.size()) + 1; }
  int64_t rows() const { return static_cast<int64_t>(slot.size()); }
  int64_t most() const { return *std::max_element(lengths.begin(), lengths.end()); }
  int64_t pages() const { return (most() + 63) / 64 + 1; }
};

// Device copies of row descriptions.
struct Rows {
  at::Tensor slot, position;
  Rows(const std::vector<int32_t>& slots, const std::vector<int32_t>& positions)
      : slot(testing::to_gpu(slots)), position(testing::to_gpu(positions)) {}
  gpu::KvRows view(int64_t first = 0, int64_t count = -1) const {
    return {data<int32_t>(slot) + first, data<int32_t>(position) + first,
            count < 0 ? slot.size(0) : count};
  }
};

struct Rope {
  RopeTable table;
  at::Tensor cos, sin;
  Rope(int64_t dim, int64_t positions) {
    LlamaConfig config;
    config.head_dim = dim;
    table = make_rope_table(config, positions);
    const auto copy = [](std::vector<float>& values) {
      return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kFloat).cuda();
    };
    cos = copy(table.cos);
    sin = copy(table.sin);
  }
};

// Sequences whose every token went through rope_append on the GPU and through the CPU's engine.
struct Filled {
  HeadSizes sizes;
  Sequences sequences;
  Rope rope;
  GpuCache cache;
  CpuLayer layer;
  at::Tensor raw;     // (rows, width): as the product leaves it
  at::Tensor qkv;     // (rows, width) by the CPU
  at::Tensor on_gpu;  // the same by the GPU

  Filled(gpu_format format, const HeadSizes& of, const std::vector<int32_t>& lengths)
      : sizes(of),
        sequences(lengths),
        rope(of.dim, sequences.most()),
        cache(format, of, kLayers, sequences.slots(), sequences.pages()),
        layer(format, of),
        raw(testing::quick_normal({sequences.rows(), of.width()})) {
    qkv = raw.clone();
    for (int64_t r = 0; r < sequences.rows(); ++r) {
      const auto i = static_cast<size_t>(r);
      layer.append(sequences.slot[i], sequences.position[i], data<float>(qkv) + r * of.width(),
                   rope.table.cos.data(), rope.table.sin.data());
    }
    on_gpu = raw.cuda();
    const Rows rows(sequences.slot, sequences.position);
    gpu::rope_append<float>(cache.view(), kLayer, data<float>(on_gpu), of.heads(),
                            data<float>(rope.cos), data<float>(rope.sin), rows.view(),
                            current_stream());
  }
  std::string what() const {
    return fmt::format("{} G={} group={} D={}", name_of(cache.layout().format), sizes.kv_heads,
                       sizes.group, sizes.dim);
  }
};

int32_t stored(const gpu::KvLayout& layout, const uint8_t* head, int32_t position, int part,
               int64_t d) {
  const int64_t index = (part * 64 + position % 64) * layout.head_dim + d;
  if (layout.format == gpu_format::kInt8) return static_cast<int8_t>(head[index]);
  uint16_t half = 0;
  std::memcpy(&half, head + 2 * index, 2);
  return half;
}
float stored_unit(const gpu::KvLayout& layout, const uint8_t* head, int32_t position, int part) {
  float unit = 0;
  std::memcpy(&unit, head + 2 * layout.part_bytes() + (part * 64 + position % 64) * 4, 4);
  return unit;
}

// Keys or values of one position as numbers, in the cache's basis.
float decoded(const gpu::KvLayout& layout, const uint8_t* head, int32_t position, int part,
              int64_t d) {
  const int32_t bits = stored(layout, head, position, part, d);
  switch (layout.format) {
    case gpu_format::kBf16:
      return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    case gpu_format::kFp16:
      return half_to_float(static_cast<uint16_t>(bits));
    default:
      return static_cast<float>(bits) * stored_unit(layout, head, position, part);
  }
}

const std::vector<HeadSizes> kHeads = {
    {2, 1, 16}, {2, 4, 64}, {1, 8, 80}, {2, 1, 128}, {2, 8, 128}};
// Every edge of pages, and of pieces of the shortest kind.
const std::vector<int32_t> kLengths = {1, 63, 64, 65, 255, 256, 257};
// Where pieces become longer: the last row of so many keys, and the first beyond.
const std::vector<int32_t> kLongLengths = {512, 1024, 1025, 2048, 2049};

TEST_F(AttentionGpu, AppendedKeysAndValuesAreThoseOfTheCpu) {
  std::vector<HeadSizes> sizes = kHeads;
  sizes.push_back({3, 1, 6});    // one pair to a thread
  sizes.push_back({1, 11, 16});  // more query heads than a block holds at once
  for (const gpu_format format : {gpu_format::kFp16, gpu_format::kInt8, gpu_format::kBf16}) {
    for (const HeadSizes& of : sizes) {
      if (format == gpu_format::kInt8 && of.dim % 16 != 0) continue;
      Filled f(format, of, {1, 65, 130});
      expect_same_bits(f.on_gpu, f.qkv, f.what() + " qkv");
      const at::Tensor bytes = f.cache.bytes();
      int64_t wrong = 0;
      for (size_t r = 0; r < f.sequences.slot.size(); ++r) {
        const int32_t slot = f.sequences.slot[r], position = f.sequences.position[r];
        const float* row = data<float>(f.qkv) + static_cast<int64_t>(r) * of.width();
        for (int64_t g = 0; g < of.kv_heads; ++g) {
          const uint8_t* head = f.cache.head(bytes, kLayer, slot, position, g);
          for (int part = 0; part < 2; ++part) {
            const float* x = row + (of.heads() + part * of.kv_heads + g) * of.dim;
            for (int64_t d = 0; d < of.dim; ++d) {
              const int32_t got = stored(f.cache.layout(), head, position, part, d);
              const int32_t expected = format == gpu_format::kBf16
                                           ? std::bit_cast<uint16_t>(bfloat16(x[d]))
                                           : f.layer.element(slot, position, g, part, d);
              wrong += got != expected ? 1 : 0;
            }
            if (format == gpu_format::kInt8) {
              const float got = stored_unit(f.cache.layout(), head, position, part);
              wrong += got != f.layer.unit(slot, position, g, part) ? 1 : 0;
            }
          }
        }
      }
      EXPECT_EQ(wrong, 0) << f.what();
      // The other layer and the slot that nobody has stay as they were.
      EXPECT_EQ(*f.cache.head(bytes, 1 - kLayer, f.sequences.slot[0], 0, 0), 0xff) << f.what();
      EXPECT_EQ(*f.cache.head(bytes, kLayer, 0, 0, 0), 0xff) << f.what();
      if (HasFailure()) return;
    }
  }
}

TEST_F(AttentionGpu, Fp16SaturatesAndKeepsNaN) {
  const HeadSizes of{1, 1, 16};
  const GpuCache cache(gpu_format::kFp16, of, kLayers, 1, 1);
  const at::Tensor qkv = at::zeros({1, of.width()}, at::kFloat);
  float* v = data<float>(qkv) + 2 * of.dim;  // values are not turned
  v[0] = 1e9f, v[1] = -1e9f, v[2] = std::nanf(""), v[3] = 65519.0f;
  const at::Tensor device = qkv.cuda();
  const Rope rope(of.dim, 1);
  const Rows rows({0}, {0});
  gpu::rope_append<float>(cache.view(), kLayer, data<float>(device), 1, data<float>(rope.cos),
                          data<float>(rope.sin), rows.view(), current_stream());
  const at::Tensor bytes = cache.bytes();
  const auto value = [&](int64_t d) {
    return decoded(cache.layout(), cache.head(bytes, kLayer, 0, 0, 0), 0, 1, d);
  };
  EXPECT_EQ(value(0), 65504.0f);
  EXPECT_EQ(value(1), -65504.0f);
  EXPECT_TRUE(std::isnan(value(2)));
  EXPECT_EQ(value(3), 65504.0f);
}

// BF16 rows: turned as kernels/rope.h turns BF16, the cache from what that left; read back dense.
TEST_F(AttentionGpu, Bf16RowsAreAppendedAndGathered) {
  for (const gpu_format format : {gpu_format::kBf16, gpu_format::kFp16, gpu_format::kInt8}) {
    for (const HeadSizes& of : {HeadSizes{2, 2, 16}, HeadSizes{3, 1, 128}, HeadSizes{1, 2, 80}}) {
      constexpr int32_t kLength = 131;
      const std::string what = fmt::format("{} D={}", name_of(format), of.dim);
      const Sequences sequences({kLength});
      const GpuCache cache(format, of, kLayers, sequences.slots(), sequences.pages());
      const Rope rope(of.dim, kLength);
      const at::Tensor qkv = normal({kLength, of.width()}, 12, at::kBFloat16);
      const at::Tensor device = qkv.cuda();
      const Rows rows(sequences.slot, sequences.position);
      gpu::rope_append<bfloat16>(cache.view(), kLayer, data<bfloat16>(device), of.heads(),
                                 data<float>(rope.cos), data<float>(rope.sin), rows.view(),
                                 current_stream());
      kernels::rope(data<bfloat16>(qkv), kLength, of.width(), of.heads() + of.kv_heads, of.dim,
                    rope.table.cos.data(), rope.table.sin.data(), sequences.position.data(), +1);
      expect_same_bits(device, qkv, what + " qkv");
      const int64_t width = of.kv_heads * of.dim;
      const at::Tensor k = unwritten({kLength, width}, at::kFloat),
                       v = unwritten({kLength, width}, at::kFloat);
      const at::Tensor k16 = unwritten({kLength, width}, at::kBFloat16),
                       v16 = unwritten({kLength, width}, at::kBFloat16);
      gpu::gather_kv<float>(cache.view(), kLayer, 1, kLength, data<float>(k), data<float>(v),
                            current_stream());
      gpu::gather_kv<bfloat16>(cache.view(), kLayer, 1, kLength, data<bfloat16>(k16),
                               data<bfloat16>(v16), current_stream());
      const at::Tensor bytes = cache.bytes();
      const at::Tensor expected = at::empty({2, kLength, width}, at::kFloat);
      for (int32_t p = 0; p < kLength; ++p) {
        for (int64_t g = 0; g < of.kv_heads; ++g) {
          const uint8_t* head = cache.head(bytes, kLayer, 1, p, g);
          for (int part = 0; part < 2; ++part) {
            float* to = data<float>(expected) + (part * kLength + p) * width + g * of.dim;
            for (int64_t d = 0; d < of.dim; ++d) to[d] = decoded(cache.layout(), head, p, part, d);
            if (format == gpu_format::kInt8) kernels::hadamard_rows(to, 1, of.dim, to);
          }
        }
      }
      expect_same_bits(k, expected[0], what + " k");
      expect_same_bits(v, expected[1], what + " v");
      expect_same_bits(k16, expected[0].to(at::kBFloat16), what + " k bf16");
      expect_same_bits(v16, expected[1].to(at::kBFloat16), what + " v bf16");
      // And they are what was given, as well as the format can say it.
      const at::Tensor given = qkv.slice(1, of.heads() * of.dim).to(at::kFloat);
      const double worst =
          (at::cat({expected[0], expected[1]}, 1) - given).abs().max().item<double>();
      EXPECT_LE(worst, format == gpu_format::kInt8   ? 0.1
                       : format == gpu_format::kBf16 ? 0
                                                     : 1e-6)
          << what;
      if (HasFailure()) return;
    }
  }
}

TEST_F(AttentionGpu, ExactAttentionHasTheBitsOfTheCpu) {
  std::vector<HeadSizes> sizes = kHeads;
  sizes.push_back({2, 2, 6});
  for (const gpu_format format : {gpu_format::kFp16, gpu_format::kInt8}) {
    for (const HeadSizes& of : sizes) {
      if (format == gpu_format::kInt8 && of.dim % 16 != 0) continue;
      std::vector<int32_t> lengths = kLengths;
      if (of.dim == 64) lengths.push_back(1000);
      Filled f(format, of, lengths);
      const int64_t rows = f.sequences.rows(), width = of.heads() * of.dim;
      const at::Tensor out = unwritten({rows, width}, at::kFloat);
      const Rows all(f.sequences.slot, f.sequences.position);
      gpu::attend_exact(f.cache.view(), kLayer, data<float>(f.on_gpu), of.heads(), all.view(),
                        data<float>(out), current_stream());
      const at::Tensor got = out.cpu();
      // The last rows of each sequence, and some within.
      std::vector<float> expected(static_cast<size_t>(width));
      int64_t wrong = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const auto i = static_cast<size_t>(r);
        const bool last = r + 1 == rows || f.sequences.position[i + 1] == 0;
        if (!last && r % 37 != 0) continue;
        f.layer.attend(f.sequences.slot[i], f.sequences.position[i],
                       data<float>(f.qkv) + r * of.width(), expected.data());
        wrong += std::memcmp(expected.data(), data<float>(got) + r * width,
                             expected.size() * sizeof(float)) != 0
                     ? 1
                     : 0;
      }
      EXPECT_EQ(wrong, 0) << f.what() << ": rows that differ";
      if (HasFailure()) return;
    }
  }
}

// softmax(q K^T / sqrt D) V of one query head in FP64 over the numbers in the cache, and what FP32
// may be off by.
struct Reference {
  std::vector<double> out, bound;
};
Reference reference(const Filled& f, const at::Tensor& bytes, int32_t slot, int32_t position,
                    int64_t head, const float* q) {
  constexpr double kUlp = 0x1p-24;
  const gpu::KvLayout& layout = f.cache.layout();
  const int64_t dim = f.sizes.dim, g = head / f.sizes.group;
  const auto keys = static_cast<size_t>(position) + 1;
  std::vector<double> score(keys);
  double most = -1e300, least = 1e300, score_error = 0;
  for (size_t j = 0; j < keys; ++j) {
    const auto p = static_cast<int32_t>(j);
    const uint8_t* at = f.cache.head(bytes, kLayer, slot, p, g);
    double sum = 0, size = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double product = static_cast<double>(q[d]) * decoded(layout, at, p, 0, d);
      sum += product;
      size += std::fabs(product);
    }
    const double scale = 1 / std::sqrt(static_cast<double>(dim));
    score[j] = sum * scale;
    most = std::max(most, score[j]);
    least = std::min(least, score[j]);
    score_error = std::max(score_error, static_cast<double>(dim + 6) * kUlp * size * scale);
  }
  // Of a weight: its score's and the largest's error, the difference's rounding, exp's, twice where
  // pieces are combined; then every sum's own roundings.
  const double weight_error = 4 * score_error + 2 * kUlp * (most - least) + 8 * kUlp;
  const double sums = 2 * static_cast<double>(gpu::kPagePositions + keys / 256 + 16) * kUlp;
  Reference result;
  double total = 0;
  for (double& s : score) total += s = std::exp(s - most);
  for (int64_t d = 0; d < dim; ++d) {
    double sum = 0, size = 0;
    for (size_t j = 0; j < keys; ++j) {
      const auto p = static_cast<int32_t>(j);
      const double v =
          decoded(layout, f.cache.head(bytes, kLayer, slot, p, g), p, 1, d) * (score[j] / total);
      sum += v;
      size += std::fabs(v);
    }
    result.out.push_back(sum);
    result.bound.push_back(size * (2 * weight_error + sums));
  }
  return result;
}

TEST_F(AttentionGpu, SplitAttentionIsWithinItsBoundOfFp64) {
  for (const gpu_format format : {gpu_format::kBf16, gpu_format::kFp16, gpu_format::kInt8}) {
    std::vector<HeadSizes> sizes = kHeads;
    sizes.push_back({1, 2, 256});
    sizes.push_back({1, 11, 32});
    if (format != gpu_format::kInt8) sizes.push_back({2, 3, 24});
    for (const HeadSizes& of : sizes) {
      std::vector<int32_t> lengths = kLengths;
      lengths.insert(lengths.end(), {513, 1000});  // with tails
      if (of.dim == 64 || of.dim == 256) {
        lengths.insert(lengths.end(), kLongLengths.begin(), kLongLengths.end());
      }
      Filled f(format, of, lengths);
      // The last row of each sequence.
      std::vector<int32_t> slot, position;
      std::vector<at::Tensor> q;
      for (int64_t r = 0; r < f.sequences.rows(); ++r) {
        const auto i = static_cast<size_t>(r);
        if (r + 1 < f.sequences.rows() && f.sequences.position[i + 1] != 0) continue;
        slot.push_back(f.sequences.slot[i]);
        position.push_back(f.sequences.position[i]);
        q.push_back(f.on_gpu[r]);
      }
      const at::Tensor qkv = at::stack(q).contiguous(), host = qkv.cpu();
      const auto count = static_cast<int64_t>(slot.size());
      const int64_t width = of.heads() * of.dim, pieces = gpu::attend_pieces(f.sequences.most());
      const at::Tensor space =
          at::zeros({gpu::attend_split_workspace(count, of.heads(), of.dim, pieces + 3)},
                    qkv.options().dtype(at::kByte));
      const Rows rows(slot, position);
      const at::Tensor out = unwritten({count, width}, at::kFloat);
      const auto attend = [&](int64_t first, int64_t n, int64_t in_pieces, const at::Tensor& to) {
        gpu::attend_split(f.cache.view(), kLayer, data<float>(qkv) + first * of.width(), of.heads(),
                          rows.view(first, n),
                          {in_pieces, in_pieces == 1 ? nullptr : space.data_ptr(), count},
                          data<float>(to), current_stream());
      };
      attend(0, count, pieces, out);
      const at::Tensor got = out.cpu(), bytes = f.cache.bytes();
      for (int64_t r = 0; r < count; ++r) {
        const auto i = static_cast<size_t>(r);
        if (of.heads() > 8 && position[i] < 255) continue;
        const at::Tensor expected = at::empty({width}, at::kDouble);
        at::Tensor bound = at::empty_like(expected);
        for (int64_t h = 0; h < of.heads(); ++h) {
          const Reference one = reference(f, bytes, slot[i], position[i], h,
                                          data<float>(host) + r * of.width() + h * of.dim);
          std::copy(one.out.begin(), one.out.end(), data<double>(expected) + h * of.dim);
          std::copy(one.bound.begin(), one.bound.end(), data<double>(bound) + h * of.dim);
        }
        // The mixed values go back through an orthonormal transform: compared before it.
        const at::Tensor mixed = got[r].clone();
        if (format == gpu_format::kInt8) {
          kernels::hadamard_rows(data<float>(mixed), of.heads(), of.dim, data<float>(mixed));
          // Both transforms: 8 roundings of values up to sqrt(128) times the largest, each of which
          // may reach every value.
          bound = bound + 16 * 0x1p-24 * 128 * mixed.abs().max().to(at::kDouble);
        }
        testing::expect_within(mixed, expected, bound,
                               fmt::format("{} position {}", f.what(), position[i]));
      }
      // Alone, in more pieces than needed, or in one: the same bits.
      for (int64_t r = 0; r < count; ++r) {
        const at::Tensor alone = unwritten({1, width}, at::kFloat);
        const auto i = static_cast<size_t>(r);
        attend(r, 1, position[i] < gpu::kPagePositions ? 1 : pieces + 3, alone);
        expect_same_bits(alone[0], got[r], fmt::format("{} alone, row {}", f.what(), r));
        // In as few as there may be: up to 8 meet in a cluster, where there are clusters.
        attend(r, 1, gpu::attend_pieces(position[i] + 1), alone);
        expect_same_bits(alone[0], got[r], fmt::format("{} in few pieces, row {}", f.what(), r));
      }
      if (HasFailure()) return;
    }
  }
}

TEST_F(AttentionGpu, DecodeAttentionIsAppendAndSplitAttention) {
  for (const gpu_format format : {gpu_format::kBf16, gpu_format::kFp16, gpu_format::kInt8}) {
    for (const HeadSizes& of : {HeadSizes{2, 1, 16}, HeadSizes{2, 4, 64}, HeadSizes{3, 1, 128},
                                HeadSizes{1, 11, 80}, HeadSizes{1, 2, 256}}) {
      // Two caches with the same past; the last row of each sequence is a new token.
      std::vector<int32_t> lengths = kLengths;
      lengths.insert(lengths.end(), {512, 600});  // a new token in a tail, and behind a chunk
      Filled one(format, of, lengths), other(format, of, lengths);
      std::vector<int32_t> slot, position;
      for (size_t s = 0; s < lengths.size(); ++s) {
        slot.push_back(one.sequences.slot_of(s));
        position.push_back(lengths[s]);
      }
      const auto count = static_cast<int64_t>(slot.size());
      const Rows rows(slot, position);
      const Rope rope(of.dim, 601);
      const int64_t width = of.heads() * of.dim, pieces = gpu::attend_pieces(601);
      const at::Tensor qkv = normal({count, of.width()}, 13, at::kFloat).cuda();
      const at::Tensor turned = qkv.clone(), kept = qkv.clone();
      const at::Tensor space =
          at::zeros({gpu::attend_split_workspace(count, of.heads(), of.dim, pieces)},
                    qkv.options().dtype(at::kByte));
      const gpu::SplitPlan plan{pieces, space.data_ptr(), count};
      const at::Tensor expected = unwritten({count, width}, at::kFloat);
      const at::Tensor got = unwritten({count, width}, at::kFloat);
      gpu::rope_append<float>(one.cache.view(), kLayer, data<float>(turned), of.heads(),
                              data<float>(rope.cos), data<float>(rope.sin), rows.view(),
                              current_stream());
      gpu::attend_split(one.cache.view(), kLayer, data<float>(turned), of.heads(), rows.view(),
                        plan, data<float>(expected), current_stream());
      gpu::decode_attention(other.cache.view(), kLayer, data<float>(qkv), of.heads(),
                            data<float>(rope.cos), data<float>(rope.sin), rows.view(), plan,
                            {data<float>(got)}, current_stream());
      expect_same_bits(got, expected, one.what());
      expect_same_bits(other.cache.bytes(), one.cache.bytes(), one.what() + " cache");
      expect_same_bits(qkv, kept, one.what() + " qkv");
      EXPECT_TRUE(std::isfinite(got.sum().item<double>())) << one.what();
      for (const int block : {1, 16, 128}) {
        if (!gpu::attend_rotates(other.cache.view().layout)) continue;
        const testing::RotatedRows rotated(got, block);
        const std::string what = fmt::format("{} rotated in {}", one.what(), block);
        const at::Tensor signs = unwritten({count, width / 32}, at::kInt);
        const at::Tensor chunks = unwritten({count, width / 128}, at::kFloat);
        const gpu::AttendOut out = {nullptr,
                                    std::bit_cast<uint32_t*>(data<int32_t>(signs)),
                                    data<float>(chunks),
                                    block,
                                    qkv.data_ptr(),
                                    5000};
        gpu::decode_attention(other.cache.view(), kLayer, data<float>(qkv), of.heads(),
                              data<float>(rope.cos), data<float>(rope.sin), rows.view(), plan, out,
                              current_stream());
        expect_same_bits(signs, rotated.signs, what + ": signs");
        expect_same_bits(chunks, rotated.chunks, what + ": chunks");
      }
      if (HasFailure()) return;
    }
  }
}

// Rows of any length up to a context fit into its pieces.
TEST(AttentionGpuPieces, GrowWithTheContext) {
  EXPECT_EQ(gpu::attend_pieces(1), 1);
  EXPECT_EQ(gpu::attend_pieces(64), 1);
  EXPECT_EQ(gpu::attend_pieces(65), 2);
  EXPECT_EQ(gpu::attend_pieces(448), 7);
  EXPECT_EQ(gpu::attend_pieces(449), 7);
  EXPECT_EQ(gpu::attend_pieces(1792), 7);
  EXPECT_EQ(gpu::attend_pieces(1793), 8);
  EXPECT_EQ(gpu::planned_pieces(1), 1);
  EXPECT_EQ(gpu::planned_pieces(3), 4);
  EXPECT_EQ(gpu::planned_pieces(5), 7);
  EXPECT_EQ(gpu::planned_pieces(7), 7);
  EXPECT_EQ(gpu::planned_pieces(8), 8);
  EXPECT_EQ(gpu::planned_pieces(9), 16);
  int64_t last = 0;
  for (int64_t n = 1; n <= 10000; ++n) {
    const int64_t pieces = gpu::attend_pieces(n);
    ASSERT_GE(pieces, last) << n;
    last = pieces;
    ASSERT_GE(gpu::planned_pieces(pieces), pieces) << n;
    ASSERT_EQ(gpu::piece_first(n, int64_t{0}), 0) << n;
    const int64_t end = gpu::piece_first(n, pieces);
    ASSERT_GE(end, n) << n;
    ASSERT_LT(end - n, gpu::kPieceStep) << n;
    int64_t least = end, most = 0;
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t keys = gpu::piece_first(n, i + 1) - gpu::piece_first(n, i);
      least = std::min(least, keys);
      most = std::max(most, keys);
    }
    ASSERT_GE(least, gpu::kPieceStep) << n;
    ASSERT_LE(most, least + gpu::kPieceStep) << n;
    ASSERT_LE(most, gpu::kPiecePages * gpu::kPagePositions) << n;
  }
}

TEST_F(AttentionGpu, WrongShapesAreRefused) {
  const auto check = [](gpu_format format, int64_t dim) { gpu::check_layout({format, 1, 1, dim}); };
  EXPECT_NO_THROW(check(gpu_format::kFp16, 6));
  EXPECT_THROW(check(gpu_format::kFp16, 7), Error);
  EXPECT_THROW(check(gpu_format::kBf16, 258), Error);
  EXPECT_THROW(check(gpu_format::kInt8, 24), Error);
  EXPECT_THROW(gpu::check_attend({gpu_format::kBf16, 1, 3, 64}, 8), Error);
  EXPECT_THROW(gpu::check_split({gpu_format::kBf16, 1, 2, 12}, 8, {}, {}), Error);
  EXPECT_THROW(gpu::check_split({gpu_format::kBf16, 1, 2, 64}, 8, {}, {2, nullptr, 0}), Error);
  EXPECT_EQ(gpu::attend_split_workspace(4, 8, 64, 1), 0);
  // The layout of the header.
  constexpr gpu::KvLayout kLayout{gpu_format::kInt8, 3, 2, 64};
  EXPECT_EQ(kLayout.head_bytes(), 2 * 64 * 64 + 2 * 64 * 4);
  EXPECT_EQ(kLayout.offset(2, 1), 5 * kLayout.head_bytes());
  EXPECT_EQ(kLayout.page_bytes(), 6 * kLayout.head_bytes());
}

}  // namespace
}  // namespace quest
