#include "quest/runtime/stop_filter.h"

#include <algorithm>
#include <utility>

namespace quest {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopFilter::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  size_t first = std::string::npos, keep = 0;
  for (const std::string& stop : stops_) {
    first = std::min(first, held_.find(stop));
    // The longest end of held_ that may still become a stop string stays back.
    size_t length = std::min(held_.size(), stop.size() - 1);
    while (length > keep && held_.compare(held_.size() - length, length, stop, 0, length) != 0) {
      --length;
    }
    keep = std::max(keep, length);
  }
  stopped_ = first != std::string::npos;
  const size_t ready = stopped_ ? first : held_.size() - keep;
  std::string shown = held_.substr(0, ready);
  held_.erase(0, stopped_ ? std::string::npos : ready);
  return shown;
}

std::string StopFilter::flush() { return std::exchange(held_, {}); }

}  // namespace quest
