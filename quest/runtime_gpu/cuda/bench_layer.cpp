#include "quest/runtime_gpu/bench_layer.h"

#include <algorithm>
#include <functional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "quest/base/error.h"
#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/lane_order.h"
#include "quest/ops/cuda_graph.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_errors.h"
#include "quest/runtime_gpu/cuda/tensors.h"

namespace quest {
namespace {

namespace gpu = kernels::cuda;
using ops::current_stream;
using ops::data;
using runtime_gpu::on_gpu;
using Weights = LayerTime::Weights;
using Work = LayerTime::Work;

// Copies of a layer's weights together: several times the L2 cache of any GPU of today's (50 MB of
// an H100, 126 MB of a B200).
constexpr int64_t kRotatedBytes = int64_t{400} << 20;
constexpr int64_t kMostCopies = 512;
// Of a graph: long enough that the host, which starts the next one meanwhile, is never waited for.
constexpr double kGraphSeconds = 2e-3;
constexpr int64_t kMostCalls = 1000;
// Fewer are for packed weights wherever they are.
constexpr int64_t kLeastInt8Rows = 17;

int64_t copies_of(int64_t bytes) {
  return std::clamp<int64_t>((kRotatedBytes + bytes - 1) / bytes, 2, kMostCopies);
}

double milliseconds_between(const at::cuda::CUDAEvent& begin, const at::cuda::CUDAEvent& end) {
  return static_cast<double>(begin.elapsed_time(end));
}

// A call with one of the copies of the weights.
using Call = std::function<void(int64_t copy)>;

// Seconds of one call, by events around calls that the host starts one by one.
double estimate(const Call& call, int64_t copies) {
  const int64_t calls = std::min<int64_t>(copies, 8);
  call(0);  // libraries choose their algorithms
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  begin.record();
  for (int64_t i = 0; i < calls; ++i) call(i);
  end.record();
  end.synchronize();
  return 1e-3 * milliseconds_between(begin, end) / static_cast<double>(calls);
}

double seconds_of(const Call& call, int64_t copies, int64_t repeats) {
  const double guess = std::max(estimate(call, copies), 1e-7);
  const int64_t wanted = std::clamp<int64_t>(static_cast<int64_t>(kGraphSeconds / guess), copies,
                                             std::max(copies, kMostCalls));
  const int64_t calls = (wanted + copies - 1) / copies * copies;
  at::cuda::CUDAGraph graph;
  ops::record_graph(graph, [&] {
    for (int64_t i = 0; i < calls; ++i) call(i % copies);
  });
  constexpr int64_t kWarmup = 2;
  std::vector<at::cuda::CUDAEvent> marks;
  for (int64_t i = 0; i <= kWarmup + repeats; ++i) {
    marks.emplace_back(cudaEventDefault);
    marks.back().record();
    if (i < kWarmup + repeats) graph.replay();
  }
  marks.back().synchronize();
  std::vector<double> times;
  for (auto i = static_cast<size_t>(kWarmup); i + 1 < marks.size(); ++i) {
    times.push_back(milliseconds_between(marks[i], marks[i + 1]));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return 1e-3 * times[times.size() / 2] / static_cast<double>(calls);
}

}  // namespace

class LayerBench::Impl {
 public:
  Impl(const QuantRecipe& recipe, int64_t n, int64_t k, int64_t repeats)
      : recipe_(recipe), n_(n), k_(k), repeats_(repeats) {
    const std::string reason = ops::gpu_unusable_reason();
    QUEST_CHECK(reason.empty(), ErrorKind::kEnvironment, "{}", reason);
    QUEST_CHECK(recipe.weight.is_quantized() && recipe.activation.is_quantized() &&
                    gpu::packed_gemm_supports(recipe.weight, recipe.activation, k),
                ErrorKind::kUsage,
                "there is no product of packed weights and quantized activations for {} with {} "
                "inputs: take integer grids on both sides (w4a4, w1a1, fp4, ...)",
                recipe.name, k);
    tiles_ = {.bits = stored_format(recipe.weight).bits, .n = n, .k = k};
  }

  std::vector<LayerTime> time(int64_t m) {
    const at::NoGradGuard no_grad;
    // Graphs cannot be recorded on the default stream.
    const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
    return ops::with_gpu_errors("give fewer --rows", [&] {
      const Rows rows(m, n_, k_);
      std::vector<LayerTime> times = {bf16(rows)};
      const auto append = [&](std::vector<LayerTime> more) {
        times.insert(times.end(), more.begin(), more.end());
      };
      if (m > gpu::kMaxPackedRows) check_many_rows(m);
      append(packed(rows));
      if (m >= kLeastInt8Rows && multiplies_int8()) append(int8(rows));
      return times;
    });
  }

 private:
  // What does not depend on the way.
  struct Rows {
    Rows(int64_t rows, int64_t n, int64_t k)
        : m(rows),
          x(at::randn({m, k}, on_gpu(at::kBFloat16))),
          codes(at::empty({m, k}, on_gpu(at::kChar))),
          units(at::empty({m}, on_gpu(at::kFloat))),
          y(at::empty({m, n}, on_gpu(at::kBFloat16))) {}

    int64_t m;
    at::Tensor x, codes, units, y;
  };
  // The product of quantized rows with a copy of the weights.
  using Product = std::function<void(const Rows&, int64_t copy)>;

  LayerTime bf16(const Rows& rows) {
    const int64_t bytes = 2 * n_ * k_, copies = copies_of(bytes);
    const at::Tensor w = at::randn({copies, n_, k_}, on_gpu(at::kBFloat16));
    std::vector<at::Tensor> turned;
    for (int64_t i = 0; i < copies; ++i) turned.push_back(w[i].t());
    at::Tensor y = rows.y;
    const double seconds =
        seconds_of([&](int64_t copy) { at::mm_out(y, rows.x, turned[static_cast<size_t>(copy)]); },
                   copies, repeats_);
    return {Weights::kBf16, Work::kProduct, seconds, bytes, "cuBLAS"};
  }

  bool multiplies_int8() const {
    const CodeFormat a = code_format(recipe_.activation);
    return a.multiplier == 1 && a.offset == 0 && gpu::unpack_numbers_supports(recipe_.weight) &&
           gpu::gemm_lowbit_supports(n_, k_);
  }

  // Rows above kMaxPackedRows are multiplied on the int8 tensor cores, with weights as numbers.
  void check_many_rows(int64_t m) const {
    QUEST_CHECK(
        multiplies_int8(), ErrorKind::kUsage,
        "{} rows, {}, {} outputs, {} inputs: more than {} rows need grids whose numbers fit "
        "int8 (below 8 bits), outputs in multiples of 8, inputs of 16, and a GPU of compute "
        "capability 9.0; give smaller --rows",
        m, recipe_.name, n_, k_, gpu::kMaxPackedRows);
  }

  // Copies of the weights in lane order; any bytes do.
  struct Packed {
    Packed(const Impl& layer, int64_t at_most)
        : bytes(kernels::lane_bytes(layer.tiles_)),
          copies(std::min(copies_of(bytes), at_most)),
          lanes(at::randint(0, 256, {copies, bytes}, on_gpu(at::kByte))),
          units(at::zeros({layer.n_}, on_gpu(at::kFloat)).fill_(0.01)),
          weight{.spec = layer.recipe_.weight,
                 .n = layer.n_,
                 .k = layer.k_,
                 .units = data<float>(units)} {
      if (!gpu::needs_number_sums(weight.spec, layer.recipe_.activation)) return;
      sums = at::empty({layer.n_}, on_gpu(at::kInt));
      gpu::number_sums(copy(0), data<int32_t>(sums), current_stream());
      weight.number_sums = data<int32_t>(sums);
    }

    gpu::DeviceWeight copy(int64_t i) const {
      gpu::DeviceWeight w = weight;
      w.lanes = data<uint8_t>(lanes) + i * bytes;
      return w;
    }
    int64_t weight_bytes() const {
      return bytes + static_cast<int64_t>(units.nbytes() + (sums.defined() ? sums.nbytes() : 0));
    }

    int64_t bytes, copies;
    at::Tensor lanes, units, sums;
    gpu::DeviceWeight weight;
  };

  std::vector<LayerTime> packed(const Rows& rows) {
    const Packed w(*this, kMostCopies);
    const QuantSpec& activation = recipe_.activation;
    if (rows.m <= gpu::kMaxPackedRows) {
      const Product product = [&](const Rows& r, int64_t copy) {
        gpu::packed_gemm<bfloat16>(w.copy(copy), activation, data<int8_t>(r.codes),
                                   data<float>(r.units), r.m, data<bfloat16>(r.y),
                                   current_stream());
      };
      return three_ways(rows, product, w.copies,
                        {.weights = Weights::kPacked,
                         .weight_bytes = w.weight_bytes(),
                         .plan = gpu::packed_gemm_plan(recipe_.weight, activation, rows.m)});
    }
    const at::Tensor numbers = at::empty({n_, k_}, on_gpu(at::kChar));
    const Product product = [&](const Rows& r, int64_t copy) {
      gpu::unpack_numbers(w.copy(copy), data<int8_t>(numbers), current_stream());
      multiply(r, data<int8_t>(numbers), w.units);
    };
    return three_ways(
        rows, product, w.copies,
        {.weights = Weights::kPacked,
         .weight_bytes = w.weight_bytes(),
         .plan = fmt::format("unpacked before each product, {}", gpu::gemm_lowbit_plan())});
  }

  std::vector<LayerTime> int8(const Rows& rows) {
    const int64_t bytes = n_ * k_, copies = copies_of(bytes);
    const Packed packed(*this, copies);
    const at::Tensor numbers = at::empty({copies, n_, k_}, on_gpu(at::kChar));
    for (int64_t i = 0; i < copies; ++i) {
      gpu::unpack_numbers(packed.copy(i % packed.copies), data<int8_t>(numbers) + i * bytes,
                          current_stream());
    }
    const Product product = [&](const Rows& r, int64_t copy) {
      multiply(r, data<int8_t>(numbers) + copy * bytes, packed.units);
    };
    return three_ways(rows, product, copies,
                      {.weights = Weights::kInt8,
                       .weight_bytes = bytes + static_cast<int64_t>(packed.units.nbytes()),
                       .plan = gpu::gemm_lowbit_plan()});
  }

  void multiply(const Rows& rows, const int8_t* numbers, const at::Tensor& units) const {
    gpu::gemm_lowbit<bfloat16>(data<int8_t>(rows.codes), data<float>(rows.units), numbers,
                               data<float>(units), rows.m, n_, k_, data<bfloat16>(rows.y),
                               current_stream());
  }

  void quantize(const Rows& rows, bool hadamard) const {
    QuantSpec spec = recipe_.activation;
    spec.hadamard = hadamard;
    gpu::hadamard_quantize<bfloat16>(
        spec, data<bfloat16>(rows.x), rows.m, k_,
        {.codes = data<int8_t>(rows.codes), .units = data<float>(rows.units)}, current_stream());
  }

  std::vector<LayerTime> three_ways(const Rows& rows, const Product& product, int64_t copies,
                                    const LayerTime& what) const {
    quantize(rows, true);  // codes to multiply
    std::vector<LayerTime> times;
    for (const Work work : {Work::kProduct, Work::kQuantize, Work::kHadamardQuantize}) {
      const Call call = [&](int64_t copy) {
        if (work != Work::kProduct) quantize(rows, work == Work::kHadamardQuantize);
        product(rows, copy);
      };
      times.push_back(what);
      times.back().work = work;
      times.back().seconds = seconds_of(call, copies, repeats_);
    }
    return times;
  }

  QuantRecipe recipe_;
  int64_t n_, k_, repeats_;
  CodeTiles tiles_;
};

LayerBench::LayerBench(const QuantRecipe& recipe, int64_t n, int64_t k, int64_t repeats)
    : impl_(std::make_unique<Impl>(recipe, n, k, repeats)) {}
LayerBench::~LayerBench() = default;
std::vector<LayerTime> LayerBench::time(int64_t m) { return impl_->time(m); }

}  // namespace quest
