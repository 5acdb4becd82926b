// packed_product.cuh's product for up to 8 rows of which all columns fit into shared memory: made
// to be in flight beside the kernels around it. Of packed_gemm.cu alone.
//
// A block takes a part of a multiprocessor's registers and little of its shared memory, so that the
// blocks of the next product are there before this one ends. Each warp loads the first of its
// weights into registers and asks for the next of them into the L2 cache (prefetch_to_l2) before it
// waits for the kernel that writes the activations, and keeps asking so far ahead while it works:
// what is on its way from memory is not bound by registers.
#pragma once

#include <string>

#include "quest/kernels/cuda/packed_product.cuh"

namespace quest::kernels::cuda {

// Threads of a block, and blocks that a multiprocessor has registers for.
template <int kThreadsOfBlock, int kBlocks>
struct Residency {
  static constexpr int kThreads = kThreadsOfBlock, kResident = kBlocks;
  static constexpr int kRegisters = 65536 / (kThreads * kResident) / 8 * 8;
};

// Spans that a warp holds in registers.
template <int kKind, class Resident>
__host__ __device__ constexpr int decode_ring() {
  // As registers allow; bits need few besides.
  constexpr int kMore = kKind == kPackedOneBit ? 2 : 0;
  constexpr int kVectors = kMore + (Resident::kRegisters < 80    ? 4
                                    : Resident::kRegisters < 128 ? 8
                                                                 : 12);
  return packed_bits(kKind) > kVectors ? 1 : kVectors / packed_bits(kKind);
}

// Activations (m, k) into shared memory; k is a multiple of 32. Made before the wait for them, so
// that their loads are the first thing behind it.
template <int kKind, int kThreads>
struct CodeLoads {
  static constexpr bool kIsOneBit = PackedKind<kKind>::kIsOneBit;
  // A thread's pieces: 16 codes, or of bits one word.
  static constexpr int kPiece = kIsOneBit ? 32 : 16, kPieceShared = kIsOneBit ? 4 : 16;
  const int8_t* from;
  SharedAddress to;

  __device__ CodeLoads(const ProductTask& p, uint8_t* codes)
      : from(p.codes + kPiece * threadIdx.x),
        to(shared_address(codes + kPieceShared * threadIdx.x)) {
    work_out_now(from);
    work_out_now(to);
  }

  // The thread's own copies may still be on their way when it returns.
  __device__ void load(const ProductTask& p, int row_bytes) {
    const int first = kPiece * static_cast<int>(threadIdx.x);
    for (int row = 0; row < p.m; ++row, from += p.k, to += row_bytes) {
      if constexpr (kIsOneBit) {
        constexpr int kBatch = 2;
        for (int at = 0; first + at < p.k; at += kBatch * kPiece * kThreads) {
          uint4 v[kBatch][2];
#pragma unroll
          for (int i = 0; i < kBatch; ++i) {
            const int column = at + i * kPiece * kThreads;
            if (first + column >= p.k) break;
            v[i][0] = __ldcg(reinterpret_cast<const uint4*>(from + column));
            v[i][1] = __ldcg(reinterpret_cast<const uint4*>(from + column) + 1);
          }
#pragma unroll
          for (int i = 0; i < kBatch; ++i) {
            const int column = at + i * kPiece * kThreads;
            if (first + column >= p.k) break;
            store_shared(to + column / kPiece * kPieceShared,
                         bits_of_codes(v[i][0]) | bits_of_codes(v[i][1]) << 4);
          }
        }
      } else {
        for (int at = 0; first + at < p.k; at += kPiece * kThreads) {
          copy_to_shared<16>(to + at, from + at);
        }
      }
    }
  }
};

// What a span is filled up with beyond column k.
template <int kKind>
__device__ __forceinline__ void fill_codes(const ProductTask& p, int spans, int row_bytes,
                                           uint8_t* codes) {
  const int from = PackedKind<kKind>::kIsOneBit ? p.k / 32 : p.k / 4;
  const int words = spans * PackedKind<kKind>::kSpanBytes / 4;
  for (int row = 0; row < p.m; ++row) {
    for (int i = from + static_cast<int>(threadIdx.x); i < words;
         i += static_cast<int>(blockDim.x)) {
      reinterpret_cast<uint32_t*>(codes + row * row_bytes)[i] = 0;
    }
  }
}

// Adds the sums of the rows' codes (of bits: of ones) to `sums`.
template <int kKind>
__device__ __forceinline__ void add_code_sums(const ProductTask& p, int row_bytes,
                                              const uint8_t* codes, int32_t* sums) {
  const int tid = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int row = 0; row < p.m; ++row) {
    const uint8_t* of = codes + row * row_bytes;
    int sum = 0;
    if constexpr (PackedKind<kKind>::kIsOneBit) {
      for (int i = tid; i < p.k / 32; i += threads) {
        sum += __popc(reinterpret_cast<const uint32_t*>(of)[i]);
      }
    } else {
      for (int i = tid; i < p.k / 16; i += threads) {
        sum += sum_of_codes(reinterpret_cast<const uint4*>(of)[i]);
      }
    }
    sum = __reduce_add_sync(0xffffffffu, sum);
    if (tid % 32 == 0) atomicAdd(sums + row, sum);
  }
}

template <int kKind, class Resident>
__global__ void __launch_bounds__(Resident::kThreads, Resident::kResident)
    decode_product(const __grid_constant__ ProductTask p, const __grid_constant__ ProductCut cut) {
  using Kind = PackedKind<kKind>;
  constexpr int kVectors = Kind::kBits, kDepth = decode_ring<kKind, Resident>();
  constexpr int kThreads = Resident::kThreads, kWarps = kThreads / 32;
  constexpr int kUnit = kVectors * 32, kUnitBytes = kUnit * 16;  // uint4 of a unit, its bytes
  let_next_start();
  extern __shared__ uint4 shared[];
  const int stride = sums_stride(cut.block_tiles);
  auto* dots = reinterpret_cast<int32_t*>(shared);            // (m, stride)
  int32_t* code_sums = dots + p.m * stride;                   // (m)
  auto* a_units = reinterpret_cast<float*>(code_sums + p.m);  // (m)
  auto* w_units = a_units + p.m;                              // (block_tiles * 16)
  auto* n_sums = reinterpret_cast<int32_t*>(w_units + cut.block_tiles * 16);
  uint8_t* codes = reinterpret_cast<uint8_t*>(shared) + cut.codes_offset;

  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
  const int block = static_cast<int>(blockIdx.x);
  const int tiles = cut.block_tiles - (block < cut.longer ? 0 : 1);
  const int tile0 = block * (cut.block_tiles - 1) + min(block, cut.longer);
  const int units = tiles * cut.spans;
  const int begin = units * warp / kWarps;
  int rest = units * (warp + 1) / kWarps - begin;
  const uint4* at = p.lanes + (static_cast<int64_t>(tile0) * cut.spans + begin) * kUnit + lane;

  uint32_t ring[kDepth][4 * kVectors];
  const auto load = [&](int unit, uint32_t(&w)[4 * kVectors]) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) load_streaming(at + unit * kUnit + v * 32, w + 4 * v);
  };
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (d < rest) load(d, ring[d]);
  }
  const int ahead = cut.ahead_units;
  if (lane == 0 && ahead > 0 && rest > kDepth) {
    prefetch_to_l2(at + kDepth * kUnit, min(ahead, rest - kDepth) * kUnitBytes);
  }

  const int rows = p.form == ProductForm::kHalves ? p.m / 2 : p.m;
  static_assert(kMaxBlockTiles * 16 <= kThreads && 8 <= kThreads);
  if (tid < tiles * 16 && tile0 * 16 + tid < p.n) {
    copy_to_shared<4>(shared_address(w_units + tid), p.units + tile0 * 16 + tid);
    if (p.a_offset != 0) {
      copy_to_shared<4>(shared_address(n_sums + tid), p.number_sums + tile0 * 16 + tid);
    }
  }
  for (int i = tid; i < p.m * stride + p.m; i += kThreads) dots[i] = 0;  // code_sums as well
  fill_codes<kKind>(p, cut.spans, cut.row_bytes, codes);
  CodeLoads<kKind, kThreads> loads(p, codes);
  WarpProduct<kKind, 1> product;
  product.begin(p.m, cut.row_bytes);
  int tile = quotient(begin, 1.0f / static_cast<float>(cut.spans));
  work_out_now(tile);
  int left = (tile + 1) * cut.spans - begin;  // units of the tile
  int32_t* tile_dots = dots + tile * 16;
  const uint8_t* a = codes + (cut.spans - left) * Kind::kSpanBytes;

  wait_for_previous();
  loads.load(p, cut.row_bytes);
  if (tid < rows) copy_to_shared<4>(shared_address(a_units + tid), p.a_units + tid);
  wait_for_copies();
  __syncthreads();
  for (; rest > 0; rest -= kDepth, at += kDepth * kUnit) {
    if (lane == 0 && ahead > 0 && rest > kDepth + ahead) {
      prefetch_to_l2(at + (kDepth + ahead) * kUnit,
                     min(kDepth, rest - kDepth - ahead) * kUnitBytes);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (d >= rest) break;
      product.add(ring[d], a, p.table);
      if (d + kDepth < rest) load(d + kDepth, ring[d]);
      a += Kind::kSpanBytes;
      if (--left == 0) {
        product.flush(p.m, stride, tile_dots);
        left = cut.spans;
        a = codes;
        tile_dots += 16;
      }
    }
  }
  if (left != cut.spans) product.flush(p.m, stride, tile_dots);
  add_code_sums<kKind>(p, cut.row_bytes, codes, code_sums);
  __syncthreads();
  const int width = tiles * 16;
  const float inverse = 1.0f / static_cast<float>(width);
  for (int i = tid; i < rows * width; i += kThreads) {
    const int row = quotient(i, inverse), column = i - row * width;
    const int64_t n = int64_t{tile0} * 16 + column;
    if (n < p.n) {
      write_output(p, row, n, dots + column, stride, code_sums, a_units, w_units[column],
                   n_sums[column]);
    }
  }
}

// Experiment: read once from the environment.
//   QUEST_PACKED_VARIANT        256x3 (default), 256x4, 256x2, 512x2: threads of a block times
//   blocks
//                               that a multiprocessor has registers for; old: the other kernel
//   QUEST_PACKED_BLOCKS_PER_SM  1 (default) or 2
//   QUEST_PACKED_AHEAD_KB       that a block asks for into the L2 cache (default 128; 0: none)
struct DecodeExperiment {
  std::string variant = "256x3";
  int blocks_per_multiprocessor = 1, ahead_bytes = 128 << 10;
};
const DecodeExperiment& decode_experiment();

template <int kKind, class Resident>
void launch_decode(const char* operation, const ProductTask& task, ProductCut cut, Stream stream) {
  const auto kernel = &decode_product<kKind, Resident>;
  static const bool allowed = [&] {
    allow_shared(operation, kernel);
    return true;
  }();
  static_cast<void>(allowed);
  cut.threads = Resident::kThreads;
  cut.ahead_units =
      decode_experiment().ahead_bytes / (cut.threads / 32) / (packed_bits(kKind) * 512);
  launch_dependent(operation, kernel, dim3(static_cast<unsigned>(cut.blocks)),
                   dim3(static_cast<unsigned>(cut.threads)), static_cast<size_t>(cut.shared_bytes),
                   stream, task, cut);
}

// Whether it did.
template <int kKind>
bool launch_decode(const char* operation, const ProductTask& task, Stream stream) {
  const DecodeExperiment& e = decode_experiment();
  if (e.variant == "old" || task.m > 8 || task.k % 32 != 0) return false;
  const ProductCut cut =
      cut_decode(task.m, task.n, task.k, kKind == kPackedOneBit, e.blocks_per_multiprocessor);
  if (cut.blocks == 0) return false;
  if constexpr (kKind == 2 || kKind == 4 || kKind == kPackedOneBit) {
    if (e.variant == "256x2") {
      launch_decode<kKind, Residency<256, 2>>(operation, task, cut, stream);
      return true;
    }
    if (e.variant == "256x4") {
      launch_decode<kKind, Residency<256, 4>>(operation, task, cut, stream);
      return true;
    }
    if (e.variant == "512x2") {
      launch_decode<kKind, Residency<512, 2>>(operation, task, cut, stream);
      return true;
    }
  }
  launch_decode<kKind, Residency<256, 3>>(operation, task, cut, stream);
  return true;
}

}  // namespace quest::kernels::cuda
