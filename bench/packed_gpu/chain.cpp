#include "bench/packed_gpu/chain.h"

#include "bench/gpu_graph_time.h"
#include <bit>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/decode_linear.h"
#include "quest/kernels/cuda/deploy.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/lane_order.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::bench {
namespace {

namespace gpu = kernels::cuda;
namespace deploy = gpu::deploy;
using ops::current_stream;
using ops::data;

constexpr int64_t kLayers = 32, kWidth = 4096, kInner = 11008, kHeads = 32, kHeadDim = 128;

// Weights of one product in every layer.
class Products {
 public:
  Products(const QuantSpec& spec, int64_t n, int64_t k)
      : spec_(spec),
        n_(n),
        k_(k),
        lanes_(at::randint(0, 256,
                           {kLayers, kernels::lane_bytes({.bits = spec.bits, .n = n, .k = k})},
                           on_gpu(at::kByte))),
        units_(at::rand({kLayers, n}, on_gpu(at::kFloat)) * 1e-2),
        sums_(at::zeros({kLayers, n}, on_gpu(at::kInt))) {}

  void multiply(int64_t layer, const gpu::QuantizedRows& in, int64_t rows,
                const at::Tensor& out) const {
    gpu::packed_gemm<float>(of_layer(layer), spec_, in.codes, in.units, rows, data<float>(out),
                            current_stream());
  }
  gpu::DeviceWeight of_layer(int64_t layer) const {
    gpu::DeviceWeight w;
    w.spec = spec_;
    w.n = n_;
    w.k = k_;
    w.lanes = data<uint8_t>(lanes_) + layer * lanes_.size(1);
    w.units = data<float>(units_) + layer * n_;
    w.number_sums = data<int32_t>(sums_) + layer * n_;
    return w;
  }

 private:
  QuantSpec spec_;
  int64_t n_, k_;
  at::Tensor lanes_, units_, sums_;
};

// Keys and values of `rows` sequences in pages that lie in a row.
class Cache {
 public:
  Cache(int64_t rows, int64_t keys)
      : layout_{deploy::KvFormat::kFp16, kLayers, kHeads, kHeadDim},
        pages_((keys + deploy::kPagePositions - 1) / deploy::kPagePositions),
        memory_(at::zeros({rows * pages_, layout_.page_bytes()}, on_gpu(at::kByte))),
        table_((at::arange(rows * pages_, at::kLong) * layout_.page_bytes() +
                std::bit_cast<int64_t>(memory_.data_ptr()))
                   .cuda()),
        slot_(at::arange(rows, on_gpu(at::kInt))),
        position_(at::zeros({rows}, on_gpu(at::kInt)) + (keys - 1)),
        cos_(at::ones({keys, kHeadDim / 2}, on_gpu(at::kFloat))),
        sin_(at::zeros({keys, kHeadDim / 2}, on_gpu(at::kFloat))) {
    plan_.pieces = deploy::planned_pieces(deploy::attend_pieces(keys));  // as the engine has them
    plan_.max_rows = rows;
    const int64_t bytes = deploy::attend_split_workspace(rows, kHeads, kHeadDim, plan_.pieces);
    workspace_ = at::zeros({bytes}, on_gpu(at::kByte));
    if (bytes > 0) plan_.workspace = workspace_.data_ptr();
  }

  void attend(int64_t layer, const at::Tensor& qkv, const deploy::AttendOut& out) const {
    const deploy::KvCacheView view{layout_, static_cast<uint8_t* const*>(table_.data_ptr()),
                                   pages_};
    deploy::decode_attention(view, layer, data<float>(qkv), kHeads, data<float>(cos_),
                             data<float>(sin_),
                             {data<int32_t>(slot_), data<int32_t>(position_), slot_.size(0)}, plan_,
                             out, current_stream());
  }

 private:
  deploy::KvLayout layout_;
  int64_t pages_;
  at::Tensor memory_, table_, slot_, position_, cos_, sin_, workspace_;
  deploy::SplitPlan plan_;
};

struct Parts {
  bool products = true, attention = true, rows = true;  // rows: norms and quantizers
  bool layers = false;  // instead of products and rows: both in one kernel (decode_linear.h)
};

class Chain {
 public:
  Chain(int bits, int64_t rows, const Cache& cache)
      : spec_(spec_from_string(fmt::format("int{}.hadamard.trust", bits))),
        rows_(rows),
        cache_(cache),
        qkv_(spec_, 3 * kWidth, kWidth),
        o_(spec_, kWidth, kWidth),
        gate_up_(spec_, 2 * kInner, kWidth),
        down_(spec_, kWidth, kInner),
        norms_(at::ones({2 * kLayers, kWidth}, on_gpu(at::kFloat))),
        hidden_(at::randn({rows, kWidth}, norms_.options())),
        delta_(at::randn({rows, kWidth}, norms_.options())),
        attended_(at::randn({rows, kWidth}, norms_.options())),
        wide_(at::randn({rows, 2 * kInner}, norms_.options())),
        chunks_(at::ones({kInner / 128}, norms_.options())),
        signs_(at::ones({kInner / 32}, on_gpu(at::kInt))),
        codes_(2 * at::randint(0, 2, {rows, kInner}, on_gpu(at::kChar)) - 1),
        units_(at::ones({rows}, norms_.options())) {}

  // Microseconds of a layer.
  double time(const Parts& parts) const {
    return microseconds(kLayers, [&](int64_t layer) {
      parts.layers ? run_layers(layer, parts.attention) : run(layer, parts);
    });
  }

 private:
  gpu::QuantizedRows quantized() const { return {data<int8_t>(codes_), data<float>(units_)}; }

  void norm(int64_t index) const {
    deploy::add_norm_quantize(spec_, data<float>(hidden_), data<float>(delta_),
                              data<float>(norms_) + index * kWidth, 1e-5f, rows_, kWidth,
                              data<float>(hidden_), quantized(), current_stream());
  }

  void run_layers(int64_t layer, bool attention) const {
    auto *const hidden = data<float>(hidden_), *const wide = data<float>(wide_);
    const auto normed = [&](int64_t index) {
      return deploy::NormedRow{hidden, data<float>(norms_) + index * kWidth, 1e-5f};
    };
    const gpu::Stream stream = current_stream();
    deploy::decode_linear(qkv_.of_layer(layer), spec_, normed(2 * layer), {wide}, stream);
    auto *const attended = data<float>(attended_), *const chunks = data<float>(chunks_);
    auto* const signs = std::bit_cast<uint32_t*>(data<int32_t>(signs_));
    const bool takes_signs = deploy::decode_takes_signs(spec_, spec_);
    const gpu::DeviceWeight gate_up = gate_up_.of_layer(layer);
    deploy::AttendOut to = {attended};
    if (takes_signs) {
      to = {nullptr, signs, chunks, static_cast<int>(kHeadDim)};
      std::tie(to.next, to.next_bytes) = deploy::decode_late_weights(gate_up);
    }
    const deploy::DecodeOut sum = {hidden, hidden};
    if (attention) cache_.attend(layer, wide_, to);
    if (takes_signs) {
      deploy::decode_linear(o_.of_layer(layer), spec_, deploy::SignRow{signs, chunks}, sum, stream);
    } else {
      deploy::decode_linear(o_.of_layer(layer), spec_, deploy::GivenRow{attended}, sum, stream);
    }
    deploy::SwigluMemory memory = {wide};
    if (takes_signs) memory = {nullptr, signs, chunks};
    const deploy::SwigluRow inner =
        deploy::decode_gate_up(gate_up, spec_, normed(2 * layer + 1), spec_, memory, stream);
    deploy::decode_linear(down_.of_layer(layer), spec_, inner, sum, stream);
  }

  void run(int64_t layer, const Parts& parts) const {
    const gpu::QuantizedRows in = quantized();
    if (parts.rows) norm(2 * layer);
    if (parts.products) qkv_.multiply(layer, in, rows_, wide_);
    if (parts.attention) cache_.attend(layer, wide_, {data<float>(attended_)});
    if (parts.rows) {
      deploy::quantize(spec_, data<float>(attended_), rows_, kWidth, in, current_stream());
    }
    if (parts.products) o_.multiply(layer, in, rows_, delta_);
    if (parts.rows) norm(2 * layer + 1);
    if (parts.products) gate_up_.multiply(layer, in, rows_, wide_);
    if (parts.rows) {
      deploy::swiglu_quantize(spec_, data<float>(wide_), rows_, kInner, in, current_stream());
    }
    if (parts.products) down_.multiply(layer, in, rows_, delta_);
  }

  QuantSpec spec_;
  int64_t rows_;
  const Cache& cache_;
  Products qkv_, o_, gate_up_, down_;
  at::Tensor norms_, hidden_, delta_, attended_, wide_, chunks_, signs_, codes_, units_;
};

}  // namespace

void measure_chain(const std::vector<int>& bits, int64_t rows, int64_t keys) {
  const Cache cache(rows, keys);
  fmt::print(
      "{}: us of a layer, {} rows, {} keys\n\n"
      "| bits | layers | without attention | apart | without "
      "attention | products | without products | attention | norms and quantizers |\n"
      "|---|---|---|---|---|---|---|---|---|\n",
      ops::gpu_description(), rows, keys);
  for (const int b : bits) {
    const Chain chain(b, rows, cache);
    fmt::print("| {} |", b);
    for (const Parts& parts :
         {Parts{.layers = true}, Parts{.attention = false, .layers = true}, Parts{},
          Parts{.attention = false}, Parts{.attention = false, .rows = false},
          Parts{.products = false}, Parts{.products = false, .rows = false},
          Parts{.products = false, .attention = false}}) {
      if (parts.layers && rows > 1) {
        fmt::print(" - |");  // one row alone
      } else {
        fmt::print(" {:.2f} |", chain.time(parts));
      }
    }
    fmt::print("\n");
  }
}

}  // namespace quest::bench
