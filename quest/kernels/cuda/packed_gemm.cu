// packed_gemm.h's product: how it is cut into blocks, and its launch.
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/cuda/packed_product.cuh"

namespace quest::kernels::cuda {
namespace {

struct SharedNeed {
  int m;
  bool one_bit;

  int row_bytes(int slab) const {
    // Rows 16 bytes apart in the banks: 8 lanes' rows do not collide. Bits: 4 words apart.
    return one_bit ? 4 * (slab * 8 + (36 - slab * 8 % 32) % 32) : slab * kSpanColumns + 16;
  }
  int codes_offset(int block_tiles) const {
    const int bytes = 4 * m * sums_stride(block_tiles) + 8 * m + 8 * block_tiles * 16;
    return (bytes + 15) / 16 * 16;
  }
  int total(int block_tiles, int slab) const {
    return codes_offset(block_tiles) + m * row_bytes(slab);
  }
};

}  // namespace

ProductCut cut_product(int64_t m, int64_t n, int64_t k, bool one_bit) {
  const DeviceFacts& device = device_facts();
  const SharedNeed need{static_cast<int>(m), one_bit};
  ProductCut cut;
  cut.tiles = count_of(n, 16);
  cut.spans = cut.slab_spans = count_of(k, kSpanColumns);
  // Two blocks on each multiprocessor; one of twice the warps if only that has room for all
  // activations; slabs of them if there is none.
  const int half = shared_of_two_blocks(device);
  deal_tiles(cut, 2 * device.processors);
  bool one_block = false;
  if (need.total(cut.block_tiles, cut.spans) > half) {
    ProductCut alone = cut;
    deal_tiles(alone, device.processors);
    one_block = need.total(alone.block_tiles, alone.spans) <= device.block_shared;
    if (one_block) cut = alone;
    while (!one_block && cut.block_tiles > 1 && need.total(cut.block_tiles, 1) > half) {
      cut.blocks = std::min(cut.tiles, 2 * cut.blocks);
      cut.block_tiles = count_of(cut.tiles, cut.blocks);
    }
    for (int slabs = 2;
         !one_block && need.total(cut.block_tiles, cut.slab_spans) > half && cut.slab_spans > 1;
         ++slabs) {
      cut.slab_spans = count_of(cut.spans, slabs);
    }
  }
  const bool few = cut.blocks <= device.processors && cut.block_tiles * cut.spans >= 16;
  cut.longer = cut.tiles - cut.blocks * (cut.block_tiles - 1);
  cut.threads = one_block || few ? 512 : 256;
  cut.row_bytes = need.row_bytes(cut.slab_spans);
  cut.codes_offset = need.codes_offset(cut.block_tiles);
  cut.shared_bytes = need.total(cut.block_tiles, cut.slab_spans);
  return cut;
}

template <int kKind>
void launch_product(const char* operation, const ProductTask& task, Stream stream) {
  if (task.m == 0 || task.n == 0) return;
  const ProductCut cut = cut_product(task.m, task.n, task.k, kKind == kPackedOneBit);
  if (task.m <= 8) return launch_product<kKind, 1>(operation, task, cut, stream);
  if (task.m <= 16) return launch_product<kKind, 2>(operation, task, cut, stream);
  if (task.m <= 32) return launch_product<kKind, 4>(operation, task, cut, stream);
  launch_product<kKind, 8>(operation, task, cut, stream);
}

void launch_packed_product(const char* operation, int kind, const ProductTask& task,
                           Stream stream) {
  switch (kind) {
    case 1:
      return launch_product<1>(operation, task, stream);
    case 2:
      return launch_product<2>(operation, task, stream);
    case 3:
      return launch_product<3>(operation, task, stream);
    case 4:
      return launch_product<4>(operation, task, stream);
    case 5:
      return launch_product<5>(operation, task, stream);
    case 6:
      return launch_product<6>(operation, task, stream);
    case 7:
      return launch_product<7>(operation, task, stream);
    case 8:
      return launch_product<8>(operation, task, stream);
    case kPackedFp4:
      return launch_product<kPackedFp4>(operation, task, stream);
    default:
      return launch_product<kPackedOneBit>(operation, task, stream);
  }
}

void set_operands(ProductTask& task, const DeviceWeight& weight, const PackedRule& rule,
                  int64_t m) {
  if (rule.a_offset != 0) check_has_number_sums(weight.spec, weight.number_sums);
  task.lanes = static_cast<const uint4*>(weight.lanes);
  task.units = weight.units;
  task.number_sums = weight.number_sums;
  task.m = static_cast<int>(m);
  task.n = static_cast<int>(weight.n);
  task.k = static_cast<int>(weight.k);
  task.w_multiplier = rule.w_multiplier;
  task.w_offset = rule.w_offset;
  task.a_multiplier = rule.a_multiplier;
  task.a_offset = rule.a_offset;
  for (int i = 0; i < 16; ++i) {
    task.table[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(rule.numbers[i]))
                         << (8 * (i % 4));
  }
}

template <class T>
void packed_gemm(const DeviceWeight& weight, const QuantSpec& activation, const int8_t* codes,
                 const float* a_units, int64_t m, T* out, Stream stream, int32_t* acc) {
  const PackedRule rule = product_rule(weight.spec, activation, m, weight.k);
  ProductTask task;
  set_operands(task, weight, rule, m);
  task.codes = codes;
  task.a_units = a_units;
  task.out = out;
  task.acc = acc;
  task.out_stride = weight.n;
  task.form = std::is_same_v<T, float> ? ProductForm::kFloat : ProductForm::kBfloat16;
  launch_packed_product("packed_gemm", rule.kind, task, stream);
}

template void packed_gemm<float>(const DeviceWeight&, const QuantSpec&, const int8_t*, const float*,
                                 int64_t, float*, Stream, int32_t*);
template void packed_gemm<bfloat16>(const DeviceWeight&, const QuantSpec&, const int8_t*,
                                    const float*, int64_t, bfloat16*, Stream, int32_t*);

}  // namespace quest::kernels::cuda
