#include "bench/kernels_gpu/tile_products.h"

#include "bench/gpu_graph_time.h"
#include <algorithm>
#include <array>

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <c10/cuda/CUDAGuard.h>
#include <fmt/format.h>

#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::bench {
namespace {

namespace gpu = kernels::cuda;
using gpu::GemmTile;
using ops::current_stream;
using ops::data;

struct Tile {
  GemmTile tile;
  const char* name;
};
constexpr std::array<Tile, 3> kTiles = {
    {{GemmTile::kSmall, "64x128"}, {GemmTile::kMedium, "128x128"}, {GemmTile::kLarge, "128x256"}}};

// Microseconds by each of kTiles, of one of many launches of a graph. Weights come from memory:
// copies of them in turn, more than the L2 cache holds.
std::array<double, 3> time_product(int64_t m, int64_t n, int64_t k) {
  constexpr int64_t kBytes = int64_t{120} << 20;
  const int64_t copies = kBytes / (n * k) + 1;
  const at::Tensor a = at::randint(-7, 8, {m, k}, on_gpu(at::kChar));
  const at::Tensor w = at::randint(-7, 8, {copies, n, k}, on_gpu(at::kChar));
  const at::Tensor au = at::rand({m}, on_gpu(at::kFloat)), wu = at::rand({n}, au.options());
  const at::Tensor y = at::empty({m, n}, on_gpu(at::kBFloat16));
  c10::cuda::device_synchronize();  // the arguments were made in another stream
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  std::array<double, 3> times{};
  for (size_t t = 0; t < kTiles.size(); ++t) {
    times[t] = microseconds(std::max<int64_t>(copies, m < 4096 ? 24 : 8), [&](int64_t i) {
      gpu::gemm_lowbit<bfloat16>(data<int8_t>(a), data<float>(au),
                                 data<int8_t>(w) + i % copies * n * k, data<float>(wu), m, n, k,
                                 data<bfloat16>(y), current_stream(), kTiles[t].tile);
    });
  }
  return times;
}

}  // namespace

void run_tile_products() {
  fmt::print(
      "\n| rows, outputs x inputs | 64x128, us | 128x128, us | 128x256, us | chosen | TOP/s "
      "| times the best |\n|---|---|---|---|---|---|---|\n");
  double sum = 0, largest = 0;
  int count = 0;
  for (const int64_t m : {64, 128, 256, 512, 1024, 2048, 4096, 16384}) {
    for (const auto& [n, k] : std::array<std::array<int64_t, 2>, 8>{{{6144, 2048},
                                                                     {2048, 2048},
                                                                     {11264, 2048},
                                                                     {2048, 5632},
                                                                     {12288, 4096},
                                                                     {4096, 4096},
                                                                     {22016, 4096},
                                                                     {4096, 11008}}}) {
      if (m * n * k > int64_t{1} << 39) continue;
      const std::array<double, 3> times = time_product(m, n, k);
      const GemmTile tile = gpu::fastest_tile(m, n, k);
      const auto is_chosen = [&](const Tile& t) { return t.tile == tile; };
      const auto chosen = static_cast<size_t>(
          std::find_if(kTiles.begin(), kTiles.end(), is_chosen) - kTiles.begin());
      const double ratio = times[chosen] / *std::min_element(times.begin(), times.end());
      sum += ratio;
      largest = std::max(largest, ratio);
      ++count;
      fmt::print("| {}, {} x {} | {:.1f} | {:.1f} | {:.1f} | {} | {:.0f} | {:.2f} |\n", m, n, k,
                 times[0], times[1], times[2], kTiles[chosen].name,
                 2e-6 * static_cast<double>(m * n * k) / times[chosen], ratio);
    }
  }
  fmt::print(
      "\nThe chosen tile takes {:.3f} times as long as the best on average, {:.2f} at most.\n",
      sum / count, largest);
}

}  // namespace quest::bench
