// gemm_lowbit.h by CUTLASS: tensor-copy engine, warp-specialized wgmma on int8, and an epilogue
// tree
//   out = D(float(acc) * (row_unit * column_unit))
#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/device_facts.h"
#include "quest/kernels/cuda/gemm_lowbit.h"

namespace quest::kernels::cuda {
namespace {

namespace fusion = cutlass::epilogue::fusion;
using cute::_1;
using cute::_128;
using cute::_2;
using cute::_256;

// 128 x 256 outputs by two groups of warps that share them: most products for each byte loaded.
struct LargeTile {
  using Shape = cute::Shape<_128, _256, _128>;
  using Cluster = cute::Shape<_2, _1, _1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
  static constexpr int kM = 128, kN = 256, kSwizzle = 1;
};
// M x 128 outputs for each of two groups of warps in turn, so that one multiplies while the other
// writes: where sums are short, that is worth more than a large tile's fewer loads.
template <int M, int Swizzle>
struct NarrowTile {
  using Shape = cute::Shape<cute::Int<M>, _128, _128>;
  using Cluster = cute::Shape<_1, _1, _1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
  static constexpr int kM = M, kN = 128, kSwizzle = Swizzle;
};
using MediumTile = NarrowTile<128, 2>;
// For products of few outputs, which larger tiles would leave most multiprocessors without.
using SmallTile = NarrowTile<64, 1>;

template <class D, class Config>
struct Product {
  using Tile = typename Config::Shape;
  using Cluster = typename Config::Cluster;
  static constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;
  using Units = fusion::Sm90EVT<fusion::Sm90Compute<cutlass::multiplies, float, float, kRound>,
                                fusion::Sm90ColBroadcast<0, Tile, float>,
                                fusion::Sm90RowBroadcast<0, Tile, float>>;
  using Scaled = fusion::Sm90EVT<fusion::Sm90Compute<cutlass::multiplies, D, float, kRound>,
                                 fusion::Sm90AccFetch, Units>;
  static constexpr int kAlignOut = 16 / sizeof(D);
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, int32_t, float, void,
      cutlass::layout::RowMajor, kAlignOut, D, cutlass::layout::RowMajor, kAlignOut,
      typename Config::Epilogue, Scaled>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, int8_t, cutlass::layout::RowMajor, 16,
      int8_t, cutlass::layout::ColumnMajor, 16, int32_t, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      typename Config::Mainloop>::CollectiveOp;
  using Kernel =
      cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

template <class T, class Config>
void multiply(const int8_t* a, const float* a_units, const int8_t* w, const float* w_units,
              int64_t m, int64_t n, int64_t k, T* out, Stream stream) {
  using D = std::conditional_t<std::is_same_v<T, float>, float, cutlass::bfloat16_t>;
  using P = Product<D, Config>;
  const auto shape =
      cute::make_shape(static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), 1);
  const auto [rows, columns, depth, one] = shape;
  typename P::Gemm::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGemm,
      shape,
      {a,
       cutlass::make_cute_packed_stride(typename P::Kernel::StrideA{},
                                        cute::make_shape(rows, depth, 1)),
       w,
       cutlass::make_cute_packed_stride(typename P::Kernel::StrideB{},
                                        cute::make_shape(columns, depth, 1))},
      {{},
       nullptr,
       {},
       reinterpret_cast<D*>(out),
       cutlass::make_cute_packed_stride(typename P::Kernel::StrideD{},
                                        cute::make_shape(rows, columns, 1))}};
  arguments.epilogue.thread = {{}, {{a_units}, {w_units}, {}}, {}};
  arguments.hw_info.sm_count = device_facts().processors;
  arguments.scheduler.max_swizzle_size = Config::kSwizzle;
  typename P::Gemm gemm;
  cutlass::Status status = gemm.can_implement(arguments);
  if (status == cutlass::Status::kSuccess) status = gemm.initialize(arguments, nullptr, stream);
  if (status == cutlass::Status::kSuccess) status = gemm.run(stream);
  if (status != cutlass::Status::kSuccess) {
    throw_cuda_error("gemm_lowbit", static_cast<int>(status), cutlassGetStatusString(status));
  }
}

}  // namespace

bool gemm_lowbit_supports(int64_t n, int64_t k) {
  return device_facts().is_hopper_code && k % 16 == 0 && n % 8 == 0;
}

// The tiles that are done soonest, by how many rounds of them the multiprocessors need. A round of
// medium tiles takes half as long as one of large ones, a little more if the weights do not stay in
// the L2 cache, one of small tiles 0.3 times; large ones are best at writing many outputs. Fitted
// to products of 64 to 16384 rows by the layers of the 800M and the 7B model on an H100; how the
// clock falls under load shifts single ones by a tenth (`kernels_gpu --tiles` shows all three
// tiles).
GemmTile fastest_tile(int64_t m, int64_t n, int64_t k) {
  const int64_t processors = device_facts().processors;
  const auto rounds = [&](auto tile) {
    const int64_t tiles = ((m + tile.kM - 1) / tile.kM) * ((n + tile.kN - 1) / tile.kN);
    return (tiles + processors - 1) / processors;
  };
  const int64_t large = 100 * rounds(LargeTile{}), small = 30 * rounds(SmallTile{});
  const int64_t medium = (n * k <= int64_t{1} << 25 ? 48 : 54) * rounds(MediumTile{});
  if (small <= medium && small <= large) return GemmTile::kSmall;
  return medium <= large && m * n <= int64_t{1} << 27 ? GemmTile::kMedium : GemmTile::kLarge;
}

template <class T>
void gemm_lowbit(const int8_t* a, const float* a_units, const int8_t* w, const float* w_units,
                 int64_t m, int64_t n, int64_t k, T* out, Stream stream, GemmTile tile) {
  if (m == 0 || n == 0) return;
  if (tile == GemmTile::kFastest) tile = fastest_tile(m, n, k);
  const auto run = [&](auto config) {
    multiply<T, decltype(config)>(a, a_units, w, w_units, m, n, k, out, stream);
  };
  if (tile == GemmTile::kSmall) return run(SmallTile{});
  if (tile == GemmTile::kMedium) return run(MediumTile{});
  run(LargeTile{});
}

const char* gemm_lowbit_plan() {
  return "int8 tensor cores, wgmma 128x256x128, 128x128x128 or 64x128x128";
}

template void gemm_lowbit<float>(const int8_t*, const float*, const int8_t*, const float*, int64_t,
                                 int64_t, int64_t, float*, Stream, GemmTile);
template void gemm_lowbit<bfloat16>(const int8_t*, const float*, const int8_t*, const float*,
                                    int64_t, int64_t, int64_t, bfloat16*, Stream, GemmTile);

}  // namespace quest::kernels::cuda
