// LibTorch's errors of a GPU, which are pages long, as one line of ours.
//
//   with_gpu_errors("a smaller train.micro_batch_size needs less", [&] { step(); });
//   with_gpu_errors(model.device(), "fewer sequences need less", [&] { model.logits(tokens); });
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include "quest/base/error.h"

namespace quest::ops {

// Runs f. Throws kEnvironment where the device's memory is used up, with `advice`, or a call of
// CUDA failed.
template <class F>
decltype(auto) with_gpu_errors(std::string_view advice, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const c10::OutOfMemoryError& error) {
    const std::string text = error.what_without_backtrace();
    // "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."
    const size_t second = text.find(". ", text.find(". ") + 1);
    QUEST_THROW(ErrorKind::kEnvironment, "the GPU has too little memory: {}; {}",
                text.substr(0, second), advice);
  } catch (const c10::Error& error) {  // of CUDA, cuBLAS, cuDNN
    const std::string text = error.what_without_backtrace();
    QUEST_THROW(ErrorKind::kEnvironment, "the GPU failed: {}", text.substr(0, text.find('\n')));
  }
}

// On a GPU as above; elsewhere f alone, with the errors that it throws.
template <class F>
decltype(auto) with_gpu_errors(c10::Device device, std::string_view advice, F&& f) {
  if (!device.is_cuda()) return std::forward<F>(f)();
  return with_gpu_errors(advice, std::forward<F>(f));
}

}  // namespace quest::ops
