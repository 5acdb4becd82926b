// Text up to the first of some stop strings, as it comes in pieces.
//
//   StopFilter filter({"\nUser:", "</s>"});
//   print(filter.push("Hello\nUs"));     // "Hello": the rest may become a stop string
//   if (filter.stopped()) ...
//   print(filter.flush());               // what was held back, if no stop string came
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quest {

class StopFilter {
 public:
  // Empty strings are ignored.
  explicit StopFilter(std::vector<std::string> stops);

  // What can be shown now. After a stop string: nothing any more.
  std::string push(std::string_view text);
  std::string flush();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace quest
