// A random packed weight on the CPU and on the GPU.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/lane_order.h"
#include "quest/kernels/packed_gemm_testing.h"
#include "quest/runtime_gpu/device_bytes_testing.h"

namespace quest::testing {

inline at::Tensor device_lanes(const CodeTiles& tiles, const uint8_t* bytes) {
  std::vector<uint8_t> lanes(static_cast<size_t>(kernels::lane_bytes(tiles)));
  kernels::to_lanes(tiles, bytes, lanes.data());
  return device_copy(lanes);
}

struct DeviceWeight {
  DeviceWeight(const std::string& text, int64_t n, int64_t k, unsigned seed)
      : random(seed),
        spec(spec_from_string(text)),
        host(spec, random_codes(spec, n, k, random), n, k, random),
        lanes(device_lanes(host.tiles, host.bytes.data())),
        units(device_copy(host.units)) {
    if (spec.grid == Grid::kUniform4of8) {
      pairs = device_lanes(sparse_tiles(n, k).pairs, host.pairs.data());
    }
  }
  kernels::cuda::DeviceWeight device() const {
    kernels::cuda::DeviceWeight w;
    w.spec = spec;
    w.n = host.n;
    w.k = host.k;
    w.lanes = lanes.data_ptr();
    w.pairs = pairs.defined() ? pairs.data_ptr() : nullptr;
    w.units = device_data<float>(units);
    w.number_sums = sums.defined() ? device_data<int32_t>(sums) : nullptr;
    return w;
  }
  void make_sums() {
    sums = poisoned_device<int32_t>(host.n);
    kernels::cuda::number_sums(device(), device_data<int32_t>(sums), ops::current_stream());
  }

  std::mt19937 random;
  QuantSpec spec;
  RandomWeight host;
  at::Tensor lanes, units, pairs, sums;
};

}  // namespace quest::testing
