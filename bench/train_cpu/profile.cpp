#include "bench/train_cpu/profile.h"

#include <algorithm>
#include <ctime>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "quest/base/error.h"

namespace quest::bench {
namespace {

// With one thread its processor time, so that other programs do not count; else wall time.
double now_seconds() {
  timespec now{};
  clock_gettime(at::get_num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Frame {
  std::string name;
  double start;              // seconds
  double inner_seconds = 0;  // of the frames inside
};

// What one thread has open and what it has finished. The callbacks are plain functions, so the
// state is not a member of StepProfile.
struct Recording {
  std::thread::id thread;
  std::vector<Frame> open;
  std::map<std::string, StepProfile::Entry> closed;  // by path: "step::forward/quest::x/aten::mm"
};
Recording* recording = nullptr;

// "torch::autograd::CppNode<quest::ops::(anonymous namespace)::SwigluFunction>" and the like.
std::string short_name(std::string_view name) {
  const size_t ours = name.find("quest::");
  if (name.find('<') == std::string_view::npos || ours == std::string_view::npos) {
    return std::string(name);
  }
  std::string_view tail = name.substr(ours);
  tail = tail.substr(0, tail.find('>'));
  return "quest::" + std::string(tail.substr(tail.rfind(':') + 1));
}

bool counts(std::string_view name) {
  return name.starts_with("step::") || name.starts_with("quest::") || name.starts_with("aten::");
}

struct Context : at::ObserverContext {};

std::unique_ptr<at::ObserverContext> on_enter(const at::RecordFunction& function) {
  if (recording == nullptr || std::this_thread::get_id() != recording->thread) return nullptr;
  const std::string name = short_name(function.name());
  if (!counts(name)) return nullptr;
  recording->open.push_back({name, now_seconds()});
  return std::make_unique<Context>();
}

// The step's phase, our scopes, LibTorch's operation: what identifies a line.
std::string path_of(const std::vector<Frame>& open) {
  std::string path = "step::other";
  std::string scope;
  for (const Frame& frame : open) {
    if (frame.name.starts_with("step::")) path = frame.name;
    // Autograd reports a backward function twice, one inside the other.
    const std::string ours = "/" + frame.name;
    if (frame.name.starts_with("quest::") && !scope.ends_with(ours)) scope += ours;
  }
  path += scope;
  const std::string& last = open.back().name;
  return last.starts_with("aten::") ? path + "/" + last : path;
}

void on_leave(const at::RecordFunction&, at::ObserverContext* context) {
  if (context == nullptr || recording == nullptr || recording->open.empty()) return;
  const double seconds = now_seconds() - recording->open.back().start;
  StepProfile::Entry& entry = recording->closed[path_of(recording->open)];
  entry.seconds += std::max(0.0, seconds - recording->open.back().inner_seconds);
  ++entry.calls;
  recording->open.pop_back();
  if (!recording->open.empty()) recording->open.back().inner_seconds += seconds;
}

// Read from the top: the first line whose words are all in the path names its part.
constexpr struct {
  const char* first_word;
  const char* second_word;
  const char* part;
} kParts[] = {
    {"step::zero_grad", "", "optimizer"},
    {"step::optimizer", "", "optimizer"},
    {"step::clip", "", "gradient norm and clipping"},
    {"quest::linear_cross_entropy", "", "head and loss"},
    {"quest::LinearCrossEntropyFunction", "", "head and loss"},
    {"quest::attention", "", "attention"},
    {"quest::AttentionFunction", "", "attention"},
    {"quest::quantize", "", "quantizers"},
    {"quest::dequantize", "", "quantizers"},
    {"quest::weight_side", "", "quantizers"},
    {"quest::rms_norm", "", "norms and SwiGLU"},
    {"quest::RmsNormFunction", "", "norms and SwiGLU"},
    {"quest::swiglu", "", "norms and SwiGLU"},
    {"quest::SwigluFunction", "", "norms and SwiGLU"},
    {"step::forward", "quest::integer_product", "forward products"},
    {"step::forward", "aten::mm", "forward products"},
    {"step::forward", "quest::matmul", "forward products"},
    {"step::backward", "aten::mm", "backward products"},
    {"step::backward", "quest::matmul", "backward products"},
};

std::string part_of(const std::string& path) {
  for (const auto& rule : kParts) {
    if (path.find(rule.first_word) != std::string::npos &&
        path.find(rule.second_word) != std::string::npos) {
      return rule.part;
    }
  }
  return "everything else";
}

using Row = std::pair<std::string, StepProfile::Entry>;

std::string table(const std::string& title, const std::map<std::string, StepProfile::Entry>& by) {
  std::vector<Row> rows(by.begin(), by.end());
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.second.seconds > b.second.seconds; });
  double total = 0;
  for (const Row& row : rows) total += row.second.seconds;
  std::string out = fmt::format("{:<72} {:>10} {:>7} {:>8}\n", title, "ms", "%", "calls");
  for (const auto& [name, entry] : rows) {
    if (entry.seconds < 1e-4 * total) continue;
    out += fmt::format("{:<72} {:>10.2f} {:>7.1f} {:>8}\n", name, 1e3 * entry.seconds,
                       100 * entry.seconds / total, entry.calls);
  }
  return out + fmt::format("{:<72} {:>10.2f}\n", "all", 1e3 * total);
}

}  // namespace

StepProfile::StepProfile() {
  QUEST_CHECK(recording == nullptr, ErrorKind::kUsage, "a profile is being recorded already");
  recording = new Recording;
  recording->thread = std::this_thread::get_id();
  handle_ = at::addThreadLocalCallback(
      at::RecordFunctionCallback(on_enter, on_leave)
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION,
                   at::RecordScope::USER_SCOPE}));
}

StepProfile::~StepProfile() {
  at::removeCallback(handle_);
  delete std::exchange(recording, nullptr);
}

std::string StepProfile::text(int64_t steps) const {
  const auto share = 1.0 / static_cast<double>(std::max<int64_t>(1, steps));
  std::map<std::string, Entry> parts, operations;
  for (const auto& [path, entry] : recording->closed) {
    for (Entry* sum : {&parts[part_of(path)], &operations[path]}) {
      sum->seconds += entry.seconds * share;
      sum->calls += entry.calls / std::max<int64_t>(1, steps);
    }
  }
  return table("part of a step", parts) + "\n" + table("operation", operations);
}

}  // namespace quest::bench
