#include "bench/kernels_gpu/table.h"

#include "bench/gpu_graph_time.h"
#include <algorithm>
#include <vector>

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "quest/ops/gpu.h"
#include "quest/train/gpu_step.h"

namespace quest::bench {
namespace {

// Median milliseconds of f; the arguments of the caller are larger than the L2 cache.
double milliseconds(const std::function<void()>& f) {
  for (int i = 0; i < 3; ++i) f();
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
    begin.record();
    f();
    end.record();
    end.synchronize();
    times.push_back(static_cast<double>(begin.elapsed_time(end)));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

Table::Table() {
  const at::Tensor a = at::zeros({int64_t{1} << 28}, on_gpu(at::kFloat));
  at::Tensor b = at::empty_like(a);
  copy_rate_ = 2.0 * static_cast<double>(a.nbytes()) / milliseconds([&] { b.copy_(a); }) * 1e-9;
  product_rate_ = train::measure_gpu_flops(/*bf16=*/true) * 1e-12;
  fmt::print("{}; copy {:.2f} TB/s, BF16 product {:.0f} TFLOP/s\n", ops::gpu_description(),
             copy_rate_, product_rate_);
}

void Table::print_head() const {
  fmt::print("\n| kernel | ms | rate | of the ceiling |\n|---|---|---|---|\n");
}

void Table::bytes(const std::string& name, double count, const std::function<void()>& f) const {
  const double ms = milliseconds(f), rate = count / ms * 1e-9;
  fmt::print("| {} | {:.4f} | {:.2f} TB/s | {:.0f} % |\n", name, ms, rate, 100 * rate / copy_rate_);
}

void Table::product(const std::string& name, double operations, double of_bf16,
                    const std::function<void()>& f) const {
  const double ms = milliseconds(f), rate = operations / ms * 1e-9;
  fmt::print("| {} | {:.4f} | {:.0f} TFLOP/s | {:.0f} % |\n", name, ms, rate,
             100 * rate / (of_bf16 * product_rate_));
}

}  // namespace quest::bench
