#include "quest/kernels/rope.h"

#include "quest/kernels/rope_levels.h"

namespace quest::kernels {

namespace {

template <class T>
const detail::RopeLevel<T>& choose([[maybe_unused]] IsaLevel level) {
#ifdef __x86_64__
  if (level >= IsaLevel::kAvx512) return detail::rope_avx512<T>();
  if (level >= IsaLevel::kAvx2) return detail::rope_avx2<T>();
#endif
  return detail::rope_scalar<T>();
}

}  // namespace

template <class T>
void rope(T* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t head_dim, const float* cos,
          const float* sin, const int32_t* positions, int direction, IsaLevel level) {
  choose<T>(level).rotate(x, rows, row_stride, heads, head_dim, cos, sin, positions, direction);
}

template void rope<float>(float*, int64_t, int64_t, int64_t, int64_t, const float*, const float*,
                          const int32_t*, int, IsaLevel);
template void rope<bfloat16>(bfloat16*, int64_t, int64_t, int64_t, int64_t, const float*,
                             const float*, const int32_t*, int, IsaLevel);

}  // namespace quest::kernels
