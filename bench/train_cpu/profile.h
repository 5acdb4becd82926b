// Where the time of a training step goes: time by part and by operation.
//
// Counts what LibTorch reports through at::RecordFunction (its own operations, and the scopes that
// quest/ops opens around its fused operations) as self time: an operation's time without that of
// the operations inside it. Work that a thread does between two operations belongs to the scope
// around it. Wall time, or with one thread its processor time, which other programs do not disturb.
// Reporting costs a few microseconds for each operation, so a profiled step is slightly
// slower.
//
//   StepProfile profile;                       // records from here on, this thread only
//   { RECORD_USER_SCOPE("step::forward"); ... }
//   fmt::print("{}", profile.text(steps));
//
// Thread rules: one profile at a time, made, used and destroyed by one thread; that thread's
// operations count (autograd on a CPU works in the thread that calls backward()).
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include <ATen/record_function.h>

namespace quest::bench {

class StepProfile {
 public:
  StepProfile();
  ~StepProfile();
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  // Two tables in milliseconds per step: parts of the step, and the operations they consist of.
  std::string text(int64_t steps) const;

  struct Entry {
    double seconds = 0;
    int64_t calls = 0;
  };

 private:
  at::CallbackHandle handle_;
};

}  // namespace quest::bench
