// decode_linear.h: what it takes, how it is cut into blocks, and its launch.
#include <algorithm>
#include <bit>
#include <type_traits>

#include "quest/kernels/cuda/decode_linear.cuh"
#include "quest/kernels/cuda/decode_linear.h"
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/sign_linear.cuh"
#include "quest/quant/quantizer.h"

namespace quest::kernels::cuda::deploy {
namespace {

// How codes of activations are indices: an 8-bit code as it is.
RowPlanes planes_of(const QuantSpec& activation, int spans) {
  const CodeFormat format = code_format(activation);
  const bool is_signed = format.offset != 0;  // in two's complement: the last plane is negative
  RowPlanes planes;
  planes.stride = RowPlanes::stride_of(spans);
  if (is_signed) {
    planes.count = kMostPlanes;
  } else {
    planes.slope = activation.grid == Grid::kTernary ? 1 : 2;
    planes.offset = -format.max_number;
    planes.count = std::bit_width(static_cast<unsigned>(2 * format.max_number / planes.slope));
  }
  const auto scale = [&](int plane) {
    if (plane > planes.count) return 0;
    if (plane == planes.count) return planes.offset;
    return is_signed && plane == planes.count - 1 ? -(planes.slope << plane)
                                                  : planes.slope << plane;
  };
  for (int pair = 0; pair <= kMostPlanes / 2; ++pair) {
    planes.scales[pair] = make_int2(scale(2 * pair), scale(2 * pair + 1));
  }
  return planes;
}
// Codes of the rule become the planes' indices.
RowRule index_rule(const QuantSpec& activation, int64_t k, const RowPlanes& planes) {
  RowRule rule = make_row_rule(activation, k);
  if (planes.offset != 0) {  // of n = (number + intercept) / slope, from number `offset` on
    rule.code_slope = 1;
    rule.code_offset = -(planes.offset + static_cast<int>(rule.intercept)) / planes.slope;
  }
  return rule;
}

// pairs: decode_gate_up. Its blocks have 8 tiles of gate and 8 of up, or, where that is more than
// three rings of weights, half as many: then streaming them takes longer than quantizing the row
// twice on some multiprocessors does (a layer of a 7B, H100, halves to whole: 4 bits 43.5 us
// to 45.9, 2 bits 33.3 to 30.7, 1 bit 23.3 to 20.1).
DecodeCut cut_layer(int64_t n, int64_t k, int bits, const QuantSpec& activation, bool pairs) {
  DecodeCut cut;
  cut.tiles = count_of(n, 16);
  cut.spans = count_of(k, kSpanColumns);
  cut.inverse_spans = 1.0f / static_cast<float>(cut.spans);
  if (pairs) {
    const int64_t bytes = int64_t{2} * kMostPairTiles * cut.spans * bits * 512;
    const int half = bytes > 3 * kRingBytes ? kMostPairTiles / 2 : kMostPairTiles;
    cut.blocks = count_of(cut.tiles / 2, half);
    cut.block_tiles = 2 * std::min(half, cut.tiles / 2);
  } else {
    deal_tiles(cut, device_facts().processors);
  }
  cut.longer = cut.tiles - cut.blocks * (cut.block_tiles - 1);
  cut.planes = planes_of(activation, cut.spans);
  constexpr int kBellBytes = static_cast<int>(sizeof(RingBells));
  const int group_bytes = sign_tiles(sign_spans(k)) * cut.spans * kSignUnitBytes;
  cut.slots = std::clamp(kRingBytes / group_bytes, 1, RingBells::kMostSlots);
  cut.row_bytes = std::max(cut.planes.bytes(), kBellBytes);
  cut.shared_bytes = DecodeMemory::bytes(cut.row_bytes, cut.block_tiles);
  return cut;
}

// How rows are loaded, and in how many rounds at most.
template <class Row>
struct Loading;
template <>
struct Loading<NormedRow> {
  template <int kRounds>
  using Source = NormedSource<kRounds>;
  static constexpr int kMostRounds = 2;
};
template <>
struct Loading<GivenRow> {
  template <int kRounds>
  using Source = GivenSource<kRounds>;
  static constexpr int kMostRounds = 2;
};
template <>
struct Loading<SignRow> {  // sign_linear.cuh
  static constexpr int kMostRounds = 4;
};
template <>
struct Loading<SwigluRow> {
  template <int kRounds>
  using Source = SwigluSource<kRounds>;
  static constexpr int kMostRounds = 4;
};
template <class Row>
constexpr int64_t most_columns() {
  return int64_t{Loading<Row>::kMostRounds} * kRoundColumns;
}

// run(std::type_identity<the source of rows of k values>)
template <class Row, class F>
void with_source(int64_t k, F&& run) {
  constexpr int kMost = Loading<Row>::kMostRounds;
  const auto of = [&](auto rounds) {
    run(std::type_identity<typename Loading<Row>::template Source<decltype(rounds)::value>>{});
  };
  if (k <= kRoundColumns) return of(std::integral_constant<int, 1>{});
  if constexpr (kMost > 2) {
    if (k > 3 * kRoundColumns) return of(std::integral_constant<int, kMost>{});
    if (k > 2 * kRoundColumns) return of(std::integral_constant<int, 3>{});
  }
  of(std::integral_constant<int, 2>{});
}

// Bytes of shared memory to ask for. Kernels with a norm and others take turns, and a
// multiprocessor has room for a block of each, but not for two of the others: with that room they
// would be where no block of the kernel before is, two here and none there, and so would the next
// kernel's be, and a step waits for the fullest multiprocessor (a layer of a 7B, 1 and 2 bits: 5 us
// more).
template <class Row>
int shared_to_ask(const DecodeCut& cut) {
  const DeviceFacts& device = device_facts();
  if (std::is_same_v<Row, NormedRow>) return cut.shared_bytes;
  const int more_than_half = shared_of_two_blocks(device) + 128;
  return std::max(cut.shared_bytes, std::min(more_than_half, device.block_shared));
}

template <auto kKernel, class Row, class... Arguments>
void launch(const char* operation, int threads, const DecodeCut& cut, Stream stream,
            const Arguments&... arguments) {
  static const bool allowed = [&] {
    allow_shared(operation, kKernel);
    share_most_memory(operation, kKernel);
    return true;
  }();
  static_cast<void>(allowed);
  launch_dependent(operation, kKernel, dim3(static_cast<unsigned>(cut.blocks)), dim3(threads),
                   static_cast<size_t>(shared_to_ask<Row>(cut)), stream, arguments...);
}

// One call: what the kernels take.
template <class Row, class Sink>
struct Call {
  const char* operation;
  const Row& row;
  RowRule rule;
  ProductTask task;
  DecodeCut cut;
  const Sink& sink;
  Stream stream;

  template <int kBits>
  void run() const {
    with_source<Row>(task.k, [&](auto source) {
      using Source = typename decltype(source)::type;
      launch<&decode_linear_block<kBits, Source, Row, Sink>, Row>(
          operation, kDecodeThreads, cut, stream, row, rule, task, cut, sink);
    });
  }
  template <class Source>
  void run_signs_of() const {
    launch<&sign_linear_block<Source, Row, Sink>, Row>(operation, kSignThreads, cut, stream, row,
                                                       rule, task, cut, sink);
  }
  void run_signs() const {
    const int spans = sign_spans(task.k);
    if constexpr (std::is_same_v<Row, SignRow>) {
      if (spans == 1) return run_signs_of<SignWords<1>>();
      if (spans == 2) return run_signs_of<SignWords<2>>();
      if (spans == 3) return run_signs_of<SignWords<3>>();
      run_signs_of<SignWords<4>>();
    } else {
      if (spans == 1) return run_signs_of<SignValues<Row, 1>>();
      run_signs_of<SignValues<Row, 2>>();
    }
  }
};

template <class Row, class Sink>
void run(const char* operation, const DeviceWeight& weight, const QuantSpec& activation,
         const Row& row, const Sink& sink, Stream stream) {
  ProductTask task;
  const PackedRule rule = code_rule(weight.spec, activation);
  set_operands(task, weight, rule, 1);
  const DecodeCut cut = cut_layer(weight.n, weight.k, rule.bits, activation, Sink::kPairs);
  const RowRule row_rule = index_rule(activation, weight.k, cut.planes);
  const Call<Row, Sink> call{operation, row, row_rule, task, cut, sink, stream};
  constexpr bool kIsSigns = std::is_same_v<Row, SignRow>;
  if constexpr (kIsSigns || std::is_same_v<Row, NormedRow> || std::is_same_v<Row, GivenRow>) {
    if (kIsSigns || decode_takes_signs(weight.spec, activation)) return call.run_signs();
  }
  if constexpr (!kIsSigns) {
    if (rule.bits == 1) return call.template run<1>();
    if (rule.bits == 2) return call.template run<2>();
    if (rule.bits == 3) return call.template run<3>();
    call.template run<4>();
  }
}

template <class Row>
bool supports(const QuantSpec& weight, const QuantSpec& activation, int64_t n, int64_t k) {
  const auto is_linear = [](const QuantSpec& spec) {
    return spec.grid == Grid::kUniform || spec.grid == Grid::kTernary;
  };
  return n >= 1 && k % kLane == 0 && k <= most_columns<Row>() && is_linear(weight) &&
         is_linear(activation) && weight_rule(weight).bits <= 4 &&
         packed_gemm_supports(weight, activation, k) &&
         (!std::is_same_v<Row, SignRow> || decode_takes_signs(weight, activation)) &&
         cut_layer(n, k, weight_rule(weight).bits, activation, false).shared_bytes <=
             device_facts().block_shared;
}

template <class Row>
void run_linear(const DeviceWeight& weight, const QuantSpec& activation, const Row& row,
                const DecodeOut& out, Stream stream) {
  check_decode_linear(supports<Row>(weight.spec, activation, weight.n, weight.k), "decode_linear",
                      weight.spec, activation, weight.n, weight.k);
  run("decode_linear", weight, activation, row, OutputSink{out}, stream);
}

}  // namespace

bool decode_linear_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t n,
                            int64_t k) {
  return supports<NormedRow>(weight, activation, n, k);
}

bool decode_gate_up_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t n,
                             int64_t k) {
  return n % 32 == 0 && n / 2 <= most_columns<SwigluRow>() &&
         supports<NormedRow>(weight, activation, n, k);
}

bool decode_swiglu_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t n,
                            int64_t k) {
  return supports<SwigluRow>(weight, activation, n, k);
}

bool decode_takes_signs(const QuantSpec& weight, const QuantSpec& activation) {
  return weight.is_one_bit() && activation.is_one_bit() && launches_clusters(device_facts());
}

void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const NormedRow& row,
                   const DecodeOut& out, Stream stream) {
  run_linear(weight, activation, row, out, stream);
}
void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const GivenRow& row,
                   const DecodeOut& out, Stream stream) {
  run_linear(weight, activation, row, out, stream);
}
void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const SignRow& row,
                   const DecodeOut& out, Stream stream) {
  run_linear(weight, activation, row, out, stream);
}
void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const SwigluRow& row,
                   const DecodeOut& out, Stream stream) {
  if (row.signs != nullptr) {
    return run_linear(weight, activation, SignRow{row.signs, row.chunks}, out, stream);
  }
  run_linear(weight, activation, row, out, stream);
}

std::pair<const void*, int64_t> decode_late_weights(const DeviceWeight& weight) {
  const int64_t bytes =
      kernels::lane_bytes({.bits = weight_rule(weight.spec).bits, .n = weight.n, .k = weight.k});
  const int64_t late = bytes / 2 / 16 * 16;
  return {static_cast<const uint8_t*>(weight.lanes) + (bytes - late), late};
}

SwigluRow decode_gate_up(const DeviceWeight& weight, const QuantSpec& activation,
                         const NormedRow& row, const QuantSpec& next, const SwigluMemory& memory,
                         Stream stream) {
  // With weights of 1 bit a block has whole blocks of the transform.
  check_decode_linear(decode_gate_up_supports(weight.spec, activation, weight.n, weight.k) &&
                          (memory.signs == nullptr || weight_rule(weight.spec).bits == 1),
                      "decode_gate_up", weight.spec, activation, weight.n, weight.k);
  const RowRule next_rule = make_row_rule(next, weight.n / 2);
  run("decode_gate_up", weight, activation, row,
      SwigluSink{memory, next_rule.block, next_rule.norm}, stream);
  return {memory.values, memory.signs, memory.chunks};
}

}  // namespace quest::kernels::cuda::deploy
