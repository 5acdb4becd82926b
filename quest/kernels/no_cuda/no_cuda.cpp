// The twin of kernels/cuda for builds without nvcc: every operation says that it is not there.
#include "quest/base/error.h"
#include "quest/kernels/cuda/adamw.h"
#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/cross_entropy.h"
#include "quest/kernels/cuda/decode_linear.h"
#include "quest/kernels/cuda/deploy.h"
#include "quest/kernels/cuda/device_facts.h"
#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/kv_cache.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/cuda/rope.h"
#include "quest/kernels/cuda/sample.h"
#include "quest/kernels/cuda/score_rows.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/kernels/cuda/swiglu.h"
#include "quest/kernels/cuda/table_gemm.h"

namespace quest::kernels::cuda {
namespace {

[[noreturn]] void missing(const char* operation) {
  QUEST_THROW(ErrorKind::kEnvironment,
              "[{}] this program was built without GPU kernels: run `make build PRESET=cuda` "
              "(needs nvcc) or use the CPU (--device cpu)",
              operation);
}

}  // namespace

bool compiled_with_cuda() { return false; }
const char* compiled_architectures() { return ""; }
bool kernels_run_here() { return false; }
const DeviceFacts& device_facts() {
  static const DeviceFacts none;
  return none;
}

bool gemm_lowbit_supports(int64_t, int64_t) { return false; }
const char* gemm_lowbit_plan() { return "none"; }
int64_t rms_norm_backward_workspace(int64_t, int64_t) { missing("rms_norm_backward"); }

void gradient_squares(const GradientValues*, int64_t, double*, Stream) {
  missing("gradient_squares");
}
void begin_step(const double*, int64_t, double, double, double, float*, Stream) {
  missing("begin_step");
}
void adamw(const AdamWTensor*, int64_t, const AdamWSettings&, const float*, Stream) {
  missing("adamw");
}

bool fp8_gradient_supports(int64_t, int64_t) { return false; }
void fp8_gradient(const bfloat16*, const float*, const float*, int64_t, int64_t, const Fp8Rounding&,
                  uint8_t*, float*, uint8_t*, float*, uint32_t*, Stream) {
  missing("fp8_gradient");
}
void fp8_turn_codes(const int8_t*, int64_t, int64_t, uint8_t*, Stream) {
  missing("fp8_turn_codes");
}
template <class T>
void fp8_hadamard_rows(const T*, const float*, int64_t, int64_t, const Fp8Rounding&, uint8_t*,
                       float*, Stream) {
  missing("fp8_hadamard_rows");
}
template void fp8_hadamard_rows<bfloat16>(const bfloat16*, const float*, int64_t, int64_t,
                                          const Fp8Rounding&, uint8_t*, float*, Stream);
template void fp8_hadamard_rows<uint8_t>(const uint8_t*, const float*, int64_t, int64_t,
                                         const Fp8Rounding&, uint8_t*, float*, Stream);

bool packed_gemm_supports(const QuantSpec&, const QuantSpec&, int64_t) { return false; }
bool needs_number_sums(const QuantSpec&, const QuantSpec&) { return false; }
bool unpack_numbers_supports(const QuantSpec&) { return false; }
std::string packed_gemm_plan(const QuantSpec&, const QuantSpec&, int64_t) { return "none"; }
void number_sums(const DeviceWeight&, int32_t*, Stream) { missing("number_sums"); }
void unpack_numbers(const DeviceWeight&, int8_t*, Stream) { missing("unpack_numbers"); }
template <class T>
void unpack_values(const DeviceWeight&, T*, Stream) {
  missing("unpack_values");
}
template <class T>
void packed_gemm(const DeviceWeight&, const QuantSpec&, const int8_t*, const float*, int64_t, T*,
                 Stream, int32_t*) {
  missing("packed_gemm");
}

int64_t table_workspace_bytes(const DeviceTable&, int64_t) { missing("table_gemm"); }
std::string table_gemm_plan(const DeviceTable&) { return "none"; }
void table_gemm(const DeviceTable&, const float*, int64_t, int64_t, void*, float*, int64_t,
                Stream) {
  missing("table_gemm");
}
template <class T>
void table_rows(const DeviceTable&, const int32_t*, int64_t, T*, Stream) {
  missing("table_rows");
}
void argmax_rows(const float*, int64_t, int64_t, int64_t, int32_t*, Stream) {
  missing("argmax_rows");
}

template <class T>
void hadamard_quantize(const QuantSpec&, const T*, int64_t, int64_t, const QuantizedRows&, Stream) {
  missing("hadamard_quantize");
}
template <class T>
void add_rms_norm_hadamard_quantize(const QuantSpec&, const T*, const T*, const float*, float,
                                    int64_t, int64_t, T*, float*, const QuantizedRows&, Stream) {
  missing("add_rms_norm_hadamard_quantize");
}
template <class T>
void swiglu_hadamard_quantize(const QuantSpec&, const T*, int64_t, int64_t, const QuantizedRows&,
                              Stream) {
  missing("swiglu_hadamard_quantize");
}
template <class T, class Out>
void mask_hadamard(const QuantSpec&, const T*, const uint8_t*, int64_t, int64_t, Out*, Stream) {
  missing("mask_hadamard");
}
template void mask_hadamard<bfloat16, float>(const QuantSpec&, const bfloat16*, const uint8_t*,
                                             int64_t, int64_t, float*, Stream);
template <class T>
void dequantize_rows(const QuantSpec&, const int8_t*, const float*, int64_t, int64_t, T*, Stream) {
  missing("dequantize_rows");
}
template <class T>
void add_rms_norm(const T*, const T*, const float*, float, int64_t, int64_t, T*, T*, float*,
                  Stream) {
  missing("add_rms_norm");
}
template <class T>
void rms_norm_backward(const QuantSpec*, const uint8_t*, const T*, const T*, const float*,
                       const float*, const T*, int64_t, int64_t, T*, float*, float*, Stream) {
  missing("rms_norm_backward");
}
template <class T>
void swiglu(const T*, int64_t, int64_t, T*, Stream) {
  missing("swiglu");
}
template <class T>
void swiglu_backward(const QuantSpec*, const uint8_t*, const T*, const T*, int64_t, int64_t, T*,
                     Stream) {
  missing("swiglu_backward");
}
template <class T>
void rope(T*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const float*, const float*,
          Stream) {
  missing("rope");
}
template <class T>
void rope_backward_qkv(const T*, const T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t,
                       const float*, const float*, T*, Stream) {
  missing("rope_backward_qkv");
}
template <class T>
void cross_entropy(T*, const int64_t*, int64_t, int64_t, const float*, float*, Stream) {
  missing("cross_entropy");
}
template <class T>
void gemm_lowbit(const int8_t*, const float*, const int8_t*, const float*, int64_t, int64_t,
                 int64_t, T*, Stream, GemmTile) {
  missing("gemm_lowbit");
}

#define QUEST_INSTANTIATE(T)                                                                       \
  template void hadamard_quantize<T>(const QuantSpec&, const T*, int64_t, int64_t,                 \
                                     const QuantizedRows&, Stream);                                \
  template void add_rms_norm_hadamard_quantize<T>(const QuantSpec&, const T*, const T*,            \
                                                  const float*, float, int64_t, int64_t, T*,       \
                                                  float*, const QuantizedRows&, Stream);           \
  template void swiglu_hadamard_quantize<T>(const QuantSpec&, const T*, int64_t, int64_t,          \
                                            const QuantizedRows&, Stream);                         \
  template void mask_hadamard<T, T>(const QuantSpec&, const T*, const uint8_t*, int64_t, int64_t,  \
                                    T*, Stream);                                                   \
  template void dequantize_rows<T>(const QuantSpec&, const int8_t*, const float*, int64_t,         \
                                   int64_t, T*, Stream);                                           \
  template void add_rms_norm<T>(const T*, const T*, const float*, float, int64_t, int64_t, T*, T*, \
                                float*, Stream);                                                   \
  template void rms_norm_backward<T>(const QuantSpec*, const uint8_t*, const T*, const T*,         \
                                     const float*, const float*, const T*, int64_t, int64_t, T*,   \
                                     float*, float*, Stream);                                      \
  template void swiglu<T>(const T*, int64_t, int64_t, T*, Stream);                                 \
  template void swiglu_backward<T>(const QuantSpec*, const uint8_t*, const T*, const T*, int64_t,  \
                                   int64_t, T*, Stream);                                           \
  template void rope<T>(T*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const float*,    \
                        const float*, Stream);                                                     \
  template void rope_backward_qkv<T>(const T*, const T*, const T*, int64_t, int64_t, int64_t,      \
                                     int64_t, int64_t, const float*, const float*, T*, Stream);    \
  template void cross_entropy<T>(T*, const int64_t*, int64_t, int64_t, const float*, float*,       \
                                 Stream);                                                          \
  template void gemm_lowbit<T>(const int8_t*, const float*, const int8_t*, const float*, int64_t,  \
                               int64_t, int64_t, T*, Stream, GemmTile);                            \
  template void unpack_values<T>(const DeviceWeight&, T*, Stream);                                 \
  template void packed_gemm<T>(const DeviceWeight&, const QuantSpec&, const int8_t*, const float*, \
                               int64_t, T*, Stream, int32_t*);                                     \
  template void table_rows<T>(const DeviceTable&, const int32_t*, int64_t, T*, Stream);
QUEST_INSTANTIATE(float)
QUEST_INSTANTIATE(bfloat16)

void sample_rows(float*, int64_t, int64_t, int64_t, SampleRow*, int32_t*, Stream) {
  missing("sample_rows");
}

namespace deploy {

void add_norm_quantize(const QuantSpec&, const float*, const float*, const float*, float, int64_t,
                       int64_t, float*, const QuantizedRows&, Stream) {
  missing("add_norm_quantize");
}
void swiglu_quantize(const QuantSpec&, const float*, int64_t, int64_t, const QuantizedRows&,
                     Stream) {
  missing("swiglu_quantize");
}
void quantize(const QuantSpec&, const float*, int64_t, int64_t, const QuantizedRows&, Stream) {
  missing("quantize");
}
void add_norm(const float*, const float*, const float*, float, int64_t, int64_t, float*, float*,
              Stream) {
  missing("add_norm");
}
void score_rows(const float*, const int32_t*, int64_t, int64_t, float*, uint8_t*, Stream) {
  missing("score_rows");
}

void check_layout(const KvLayout&) { missing("check_layout"); }
void check_attend(const KvLayout&, int64_t) { missing("attend"); }
void check_split(const KvLayout&, int64_t, const KvRows&, const SplitPlan&) {
  missing("attend_split");
}
bool attend_split_supports(const KvLayout&) { return false; }
int64_t attend_split_workspace(int64_t, int64_t, int64_t, int64_t) { missing("attend_split"); }
template <class T>
void rope_append(const KvCacheView&, int64_t, T*, int64_t, const float*, const float*,
                 const KvRows&, Stream) {
  missing("rope_append");
}
template <class T>
void gather_kv(const KvCacheView&, int64_t, int64_t, int64_t, T*, T*, Stream) {
  missing("gather_kv");
}
void attend_exact(const KvCacheView&, int64_t, const float*, int64_t, const KvRows&, float*,
                  Stream) {
  missing("attend_exact");
}
bool attend_rotates(const KvLayout&) { return false; }
void attend_split(const KvCacheView&, int64_t, const float*, int64_t, const KvRows&,
                  const SplitPlan&, float*, Stream) {
  missing("attend_split");
}
void decode_attention(const KvCacheView&, int64_t, const float*, int64_t, const float*,
                      const float*, const KvRows&, const SplitPlan&, const AttendOut&, Stream) {
  missing("decode_attention");
}

bool decode_linear_supports(const QuantSpec&, const QuantSpec&, int64_t, int64_t) { return false; }
bool decode_gate_up_supports(const QuantSpec&, const QuantSpec&, int64_t, int64_t) { return false; }
bool decode_swiglu_supports(const QuantSpec&, const QuantSpec&, int64_t, int64_t) { return false; }
void decode_linear(const DeviceWeight&, const QuantSpec&, const NormedRow&, const DecodeOut&,
                   Stream) {
  missing("decode_linear");
}
void decode_linear(const DeviceWeight&, const QuantSpec&, const GivenRow&, const DecodeOut&,
                   Stream) {
  missing("decode_linear");
}
std::pair<const void*, int64_t> decode_late_weights(const DeviceWeight&) { return {}; }
bool decode_takes_signs(const QuantSpec&, const QuantSpec&) { return false; }
void decode_linear(const DeviceWeight&, const QuantSpec&, const SignRow&, const DecodeOut&,
                   Stream) {
  missing("decode_linear");
}
void decode_linear(const DeviceWeight&, const QuantSpec&, const SwigluRow&, const DecodeOut&,
                   Stream) {
  missing("decode_linear");
}
SwigluRow decode_gate_up(const DeviceWeight&, const QuantSpec&, const NormedRow&, const QuantSpec&,
                         const SwigluMemory&, Stream) {
  missing("decode_gate_up");
}

#define QUEST_INSTANTIATE_CACHE(T)                                                     \
  template void rope_append<T>(const KvCacheView&, int64_t, T*, int64_t, const float*, \
                               const float*, const KvRows&, Stream);                   \
  template void gather_kv<T>(const KvCacheView&, int64_t, int64_t, int64_t, T*, T*, Stream);
QUEST_INSTANTIATE_CACHE(float)
QUEST_INSTANTIATE_CACHE(bfloat16)

}  // namespace deploy

}  // namespace quest::kernels::cuda
