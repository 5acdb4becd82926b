#include "quest/kernels/deploy.h"

#include <cmath>
#include <limits>
#include <vector>

#include "quest/base/portable_math.h"
#include "quest/kernels/deploy_attend.h"
#include "quest/kernels/deploy_levels.h"
#include "quest/quant/sum_of_squares.h"

namespace quest::kernels::deploy {
namespace {

const detail::DeployLevel& choose([[maybe_unused]] IsaLevel level) {
#ifdef __x86_64__
  if (level >= IsaLevel::kAvx512) return detail::deploy_avx512();
  if (level >= IsaLevel::kAvx2) return detail::deploy_avx2();
#endif
  return detail::deploy_scalar();
}

// 1 / sqrt(mean(x^2) + eps).
float inverse_rms(const detail::DeployLevel& code, const float* x, int64_t c, float eps) {
  thread_local std::vector<float> chunk_sums;
  chunk_sums.resize((static_cast<size_t>(c) + kSumChunk - 1) / kSumChunk);
  code.square_chunks(x, c, chunk_sums.data());
  const float mean = sum_of_chunks<float>(chunk_sums, chunk_sums.size()) / static_cast<float>(c);
  return 1.0f / std::sqrt(mean + eps);
}

}  // namespace

void rms_norm(const float* x, const float* weight, int64_t m, int64_t c, float eps, float* y,
              IsaLevel level) {
  const detail::DeployLevel& code = choose(level);
  for (int64_t row = 0; row < m; ++row, x += c, y += c) {
    code.scale(x, weight, c, inverse_rms(code, x, c, eps), y);
  }
}

float rms_norm_by_unit(const float* x, const float* weight, int64_t c, float eps, float* y,
                       IsaLevel level) {
  const detail::DeployLevel& code = choose(level);
  const float factor = inverse_rms(code, x, c, eps);
  code.scale(x, weight, c, 1.0f, y);
  return factor;
}

void swiglu(const float* gate_up, int64_t m, int64_t f, float* y, IsaLevel level) {
  choose(level).swiglu(gate_up, m, f, y);
}

void add(const float* x, int64_t n, float* y, IsaLevel level) { choose(level).add(x, n, y); }

LogSumExp log_sum_exp(const float* x, int64_t n, IsaLevel level) {
  const float largest = choose(level).largest(x, n);
  const double sum = choose(level).sum_exp(x, n, largest);  // NaN spreads into it
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  // The largest value alone adds 1, so only NaN or an infinite largest leaves this range.
  const bool good = sum >= 1 && std::isfinite(sum) && std::isfinite(largest);
  return {good ? static_cast<double>(largest) + portable::log(sum) : kNan, largest};
}

void append_kv(const KvShape& shape, const float* k, const float* v, int64_t slot, uint8_t* block,
               IsaLevel level) {
  choose(level).append_kv(shape, k, v, slot, block);
}

int64_t attend_scratch_bytes(const KvShape& shape) {
  const int64_t floats = 2 * shape.padded_dim() + kKvBlock + 16;
  return detail::kAttendRows * floats * static_cast<int64_t>(sizeof(float));
}

void attend(const KvShape& shape, const AttendTask& task, void* scratch, IsaLevel level) {
  choose(level).attend(shape, task, scratch);
}

const char* deploy_plan([[maybe_unused]] IsaLevel level) {
#ifdef __x86_64__
  if (level >= IsaLevel::kAvx512) return "avx512";
  if (level >= IsaLevel::kAvx2) return "avx2";
#endif
  return "scalar";
}

}  // namespace quest::kernels::deploy
