#include "bench/kernels_gpu/input_kernels.h"

#include "bench/gpu_graph_time.h"
#include <string>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <c10/cuda/CUDAGuard.h>
#include <fmt/format.h>

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::bench {

namespace gpu = kernels::cuda;
using ops::current_stream;
using ops::data;

// What a linear layer of an 800M or 7B model does before its product, one of many launches of a
// graph. Rows come from memory: copies of them in turn, more than the L2 cache holds.
void run_input_kernels(double copy_rate, int64_t m) {
  fmt::print("\n| inputs of linear layers | us | rate | of the copy rate |\n|---|---|---|---|\n");
  constexpr int64_t kBytes = int64_t{400} << 20;
  for (const int64_t k : {2048, 4096, 5632, 11008}) {
    const int64_t copies = kBytes / (5 * m * k) + 2;
    const at::Tensor x = normal({copies, m, 2 * k}), w = at::randn({k}, on_gpu(at::kFloat));
    const at::Tensor h = at::empty({m, k}, x.options());
    const at::Tensor codes = at::empty({copies, m, k}, on_gpu(at::kChar));
    const at::Tensor units = at::empty({m}, w.options()), inverse = at::empty({m}, w.options());
    const at::Tensor mask = at::empty({m, k / 8}, on_gpu(at::kByte));
    const auto values = static_cast<double>(m * k);
    for (const char* name : {"int4.trust", "int4.hadamard.trust"}) {
      const QuantSpec spec = spec_from_string(name);
      for (const bool masked : {false, true}) {
        const auto print = [&](const char* what, double bytes_in, const auto& f) {
          const double bytes = values * (bytes_in + (masked ? 1.125 : 1.0));
          c10::cuda::device_synchronize();  // the arguments were made in another stream
          const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
          const double us = microseconds(4 * copies, [&](int64_t i) {
            const int64_t copy = i % copies;
            f(data<bfloat16>(x) + copy * m * 2 * k,
              gpu::QuantizedRows{data<int8_t>(codes) + copy * m * k, data<float>(units),
                                 masked ? data<uint8_t>(mask) : nullptr});
          });
          const double rate = bytes / us * 1e-6;
          fmt::print("| {}, {} x {}, {}{} | {:.2f} | {:.2f} TB/s | {:.0f} % |\n", what, m, k, name,
                     masked ? ", mask" : "", us, rate, 100 * rate / copy_rate);
        };
        print("quantize", 2, [&](const bfloat16* rows, const gpu::QuantizedRows& to) {
          gpu::hadamard_quantize<bfloat16>(spec, rows, m, k, to, current_stream());
        });
        print("SwiGLU + quantize", 4, [&](const bfloat16* rows, const gpu::QuantizedRows& to) {
          gpu::swiglu_hadamard_quantize<bfloat16>(spec, rows, m, k, to, current_stream());
        });
        print("add + RMSNorm + quantize", 6,
              [&](const bfloat16* rows, const gpu::QuantizedRows& to) {
                gpu::add_rms_norm_hadamard_quantize<bfloat16>(
                    spec, rows, rows + m * k, data<float>(w), 1e-5f, m, k, data<bfloat16>(h),
                    data<float>(inverse), to, current_stream());
              });
      }
    }
  }
}

}  // namespace quest::bench
