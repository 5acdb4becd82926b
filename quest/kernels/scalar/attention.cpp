// The definition of attention.
#include "quest/kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace quest::kernels {
namespace {

// One query head of one sequence: where its values lie in a matrix like qkv, and P row by row.
template <class T>
class Head {
 public:
  Head(const Attention<T>& attention, int64_t b, int64_t h)
      : a_(attention),
        row_(b * a_.length),
        q_(h * a_.head_dim),
        k_((a_.heads + h / (a_.heads / a_.kv_heads)) * a_.head_dim),
        v_(k_ + a_.kv_heads * a_.head_dim) {}

  int64_t q_at(int64_t t, int64_t d) const { return (row_ + t) * a_.row_stride + q_ + d; }
  int64_t k_at(int64_t t, int64_t d) const { return (row_ + t) * a_.row_stride + k_ + d; }
  int64_t v_at(int64_t t, int64_t d) const { return (row_ + t) * a_.row_stride + v_ + d; }
  int64_t out_at(int64_t t, int64_t d) const {
    return (row_ + t) * a_.heads * a_.head_dim + q_ + d;
  }
  double value(int64_t at) const { return static_cast<float>(a_.qkv[at]); }
  double scale() const { return 1 / std::sqrt(static_cast<double>(a_.head_dim)); }

  // p[j] for keys 0 .. i of query i; returns the logsumexp.
  double softmax(int64_t i, std::vector<double>& p) const {
    p.assign(static_cast<size_t>(i + 1), 0);
    for (int64_t j = 0; j <= i; ++j) {
      double& score = p[static_cast<size_t>(j)];
      for (int64_t d = 0; d < a_.head_dim; ++d) score += value(q_at(i, d)) * value(k_at(j, d));
      score *= scale();
    }
    const double largest = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& x : p) total += x = std::exp(x - largest);
    for (double& x : p) x /= total;
    return largest + std::log(total);
  }

 private:
  const Attention<T>& a_;
  int64_t row_, q_, k_, v_;
};

}  // namespace

template <class T>
void attention_reference(const Attention<T>& a, double* out, double* logsumexp) {
  std::vector<double> p;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const Head head(a, b, h);
      for (int64_t i = 0; i < a.length; ++i) {
        logsumexp[(b * a.heads + h) * a.length + i] = head.softmax(i, p);
        for (int64_t d = 0; d < a.head_dim; ++d) {
          double sum = 0;
          for (int64_t j = 0; j <= i; ++j)
            sum += p[static_cast<size_t>(j)] * head.value(head.v_at(j, d));
          out[head.out_at(i, d)] = sum;
        }
      }
    }
  }
}

// With g the gradient of a row of out: dV_j += P_ij g;  dP_ij = g v_j;  dS_ij = P_ij (dP_ij - sum_j
// P_ij dP_ij);  dQ_i = dS_ij K_j / sqrt(D);  dK_j += dS_ij Q_i / sqrt(D).
template <class T>
void attention_backward_reference(const Attention<T>& a, const T* grad_out, double* grad_qkv) {
  std::vector<double> p, dp;
  for (int64_t row = 0; row < a.batch * a.length; ++row) {
    std::fill_n(grad_qkv + row * a.row_stride, (a.heads + 2 * a.kv_heads) * a.head_dim, 0.0);
  }
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const Head head(a, b, h);
      for (int64_t i = 0; i < a.length; ++i) {
        head.softmax(i, p);
        dp.assign(p.size(), 0);
        double delta = 0;
        for (int64_t j = 0; j <= i; ++j) {
          const auto at = static_cast<size_t>(j);
          for (int64_t d = 0; d < a.head_dim; ++d) {
            const double g = static_cast<float>(grad_out[head.out_at(i, d)]);
            dp[at] += g * head.value(head.v_at(j, d));
            grad_qkv[head.v_at(j, d)] += p[at] * g;
          }
          delta += p[at] * dp[at];
        }
        for (int64_t j = 0; j <= i; ++j) {
          const auto at = static_cast<size_t>(j);
          const double ds = p[at] * (dp[at] - delta) * head.scale();
          for (int64_t d = 0; d < a.head_dim; ++d) {
            grad_qkv[head.q_at(i, d)] += ds * head.value(head.k_at(j, d));
            grad_qkv[head.k_at(j, d)] += ds * head.value(head.q_at(i, d));
          }
        }
      }
    }
  }
}

template void attention_reference(const Attention<bfloat16>&, double*, double*);
template void attention_reference(const Attention<float>&, double*, double*);
template void attention_backward_reference(const Attention<bfloat16>&, const bfloat16*, double*);
template void attention_backward_reference(const Attention<float>&, const float*, double*);

}  // namespace quest::kernels
