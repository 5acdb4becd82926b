#include "quest/runtime_gpu/bench_layer.h"

#include <algorithm>
#include <functional>
#include <utility>

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
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest {
namespace {

namespace gpu = kernels::cuda;
using ops::current_stream;
using ops::data;
using Weights = LayerTime::Weights;
using Work = LayerTime::Work;

// Copies of a layer's weights together: several times the L2 cache of any GPU of today's (50 MB of
// an H100, 126 MB of a B200).
constexpr int64_t kRotatedBytes = int64_t{400} << 20;
constexpr int64_t kMostCopies = 512;
// Of a graph: long enough that the host, which starts the next one meanwhile, is never waited for.
constexpr double kGraphSeconds = 2e-3;
constexpr int64_t kMostCalls = 1000;

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(type).device(at::kCUDA); }

int64_t copies_of(int64_t bytes) {
  return std::clamp<int64_t>((kRotatedBytes + bytes - 1) / bytes, 2, kMostCopies);
}

double milliseconds_between(const at::cuda::CUDAEvent& begin, const at::cuda::CUDAEvent& end) {
  return static_cast<double>(begin.elapsed_time(end));
}

// A call with one of the copies of the weights.
using Call = std::function<void(int64_t copy)>;

// The stream must not stay in capture mode when a call fails: all that follows would fail too.
template <class F>
void record_graph(at::cuda::CUDAGraph& graph, F&& f) {
  graph.capture_begin();
  try {
    f();
  } catch (...) {
    try {
      graph.capture_end();
    } catch (const std::exception&) {
    }
    throw;
  }
  graph.capture_end();
}

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
  record_graph(graph, [&] {
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

void check_side(const char* name, const QuantSpec& spec, const QuantRecipe& recipe) {
  const bool is_known = spec.grid == Grid::kUniform && spec.bits <= 7;
  QUEST_CHECK(is_known, ErrorKind::kUsage,
              "{} of {} are {}: only integer grids of 1 to 7 bits can be timed (w4a4, w1a1, ...)",
              name, recipe.name, to_string(spec));
}

// LibTorch's own messages are pages long.
template <class F>
auto with_cuda_errors(F&& f) {
  try {
    return f();
  } catch (const c10::OutOfMemoryError& error) {
    const std::string text = error.what_without_backtrace();
    QUEST_THROW(ErrorKind::kEnvironment, "the GPU has too little memory: {}; give fewer --rows",
                text.substr(0, text.find('\n')));
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    QUEST_THROW(ErrorKind::kEnvironment, "the GPU failed: {}", text.substr(0, text.find('\n')));
  }
}

}  // namespace

class LayerBench::Impl {
 public:
  Impl(const QuantRecipe& recipe, int64_t n, int64_t k, int64_t repeats)
      : recipe_(recipe), n_(n), k_(k), repeats_(repeats) {
    const std::string reason = ops::gpu_unusable_reason();
    QUEST_CHECK(reason.empty(), ErrorKind::kEnvironment, "{}", reason);
    check_side("weights", recipe.weight, recipe);
    check_side("activations", recipe.activation, recipe);
    QUEST_CHECK(n > 0 && k > 0 && gpu::gemm_lowbit_supports(n, k), ErrorKind::kUsage,
                "a layer of {} outputs and {} inputs has no int8 product here: outputs must be a "
                "multiple of 8, inputs of 16, and the GPU of compute capability 9.0",
                n, k);
  }

  std::vector<LayerTime> time(int64_t m) {
    const at::NoGradGuard no_grad;
    // Graphs cannot be recorded on the default stream.
    const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
    return with_cuda_errors([&] {
      const Rows rows(m, n_, k_);
      std::vector<LayerTime> times = {bf16(rows)};
      const auto append = [&](std::vector<LayerTime> more) {
        times.insert(times.end(), more.begin(), more.end());
      };
      if (m > kMostPackedRows) append(int8(rows));
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

  std::vector<LayerTime> int8(const Rows& rows) {
    const int64_t bytes = n_ * k_, copies = copies_of(bytes);
    const at::Tensor w = numbers({copies, n_, k_});
    const at::Tensor units = at::zeros({n_}, on_gpu(at::kFloat)).fill_(0.01);
    const Product product = [&](const Rows& r, int64_t copy) {
      gpu::gemm_lowbit<bfloat16>(data<int8_t>(r.codes), data<float>(r.units),
                                 data<int8_t>(w) + copy * bytes, data<float>(units), r.m, n_, k_,
                                 data<bfloat16>(r.y), current_stream());
    };
    return three_ways(rows, product, copies,
                      {.weights = Weights::kInt8,
                       .weight_bytes = bytes + static_cast<int64_t>(units.nbytes()),
                       .plan = gpu::gemm_lowbit_plan()});
  }

  // Random numbers of the weights' grid: odd, up to 2^b - 1.
  at::Tensor numbers(std::vector<int64_t> shape) const {
    const int64_t half = int64_t{1} << (recipe_.weight.bits - 1);
    return at::randint(-half, half, shape, on_gpu(at::kChar)).mul_(2).add_(1);
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
};

LayerBench::LayerBench(const QuantRecipe& recipe, int64_t n, int64_t k, int64_t repeats)
    : impl_(std::make_unique<Impl>(recipe, n, k, repeats)) {}
LayerBench::~LayerBench() = default;
std::vector<LayerTime> LayerBench::time(int64_t m) { return impl_->time(m); }

}  // namespace quest
