// What the current device is and which code of this build runs on it, asked of the driver once: a
// process computes on one device.
#pragma once

namespace quest::kernels::cuda {

// All zero where no device can be used.
struct DeviceFacts {
  int major = 0, minor = 0;  // compute capability
  int processors = 0;        // streaming multiprocessors
  int block_shared = 0;      // bytes of shared memory that a block may ask for
  int processor_shared = 0;  // bytes of shared memory that the blocks of a multiprocessor share
  bool has_clusters = false;
  // The architecture that the kernels which run here were compiled for: 80, 90, ... Older than the
  // device where the driver translated their PTX; 0 where none of them runs.
  int code = 0;
  bool is_hopper_code = false;  // compiled for 90a: with what only Hopper's tensor cores have
};

const DeviceFacts& device_facts();

// Bytes of shared memory of a block of which two run on a multiprocessor at a time; the system
// takes 1024 of each block for itself.
constexpr int shared_of_two_blocks(const DeviceFacts& device) {
  const int half = device.processor_shared / 2 - 1024;
  return half < device.block_shared ? half : device.block_shared;
}

// Whether kernels may be launched before the one ahead of them ends: code for less than 9.0 has no
// instruction that waits for it (dependent_launch.cuh), whatever the device could do.
constexpr bool overlaps_launches(const DeviceFacts& device) { return device.code >= 90; }

// Whether blocks may be launched in clusters, which 9.0 and 10.x have (cluster.cuh).
constexpr bool launches_clusters(const DeviceFacts& device) {
  return device.has_clusters && (device.major == 9 || device.major == 10) && device.code >= 90;
}

}  // namespace quest::kernels::cuda
