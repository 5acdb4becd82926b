// Times of kernels, launched one by one, beside the GPU's ceilings measured in the same run: copies
// of 1 GiB for kernels that move bytes, a large BF16 product for products.
//
//   Table table;                                    // measures and prints the ceilings
//   table.bytes("SwiGLU", bytes_moved, [&] { swiglu(...); });
#pragma once

#include <functional>
#include <string>

namespace quest::bench {

class Table {
 public:
  Table();
  double copy_rate() const { return copy_rate_; }  // TB/s

  // Once, before the lines.
  void print_head() const;
  void bytes(const std::string& name, double count, const std::function<void()>& f) const;
  // of_bf16: the peak over that of BF16 (int8: 2).
  void product(const std::string& name, double operations, double of_bf16,
               const std::function<void()>& f) const;

 private:
  double copy_rate_ = 0, product_rate_ = 0;
};

}  // namespace quest::bench
