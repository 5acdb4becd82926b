#include "quest/cli/law_options.h"

#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/scaling/run_table.h"

namespace quest::cli {

CLI::Option* add_bootstrap_option(CLI::App& command, int& bootstrap) {
  const auto enough = [](std::string& text) {
    int refits = 0;
    const bool is_number = CLI::detail::lexical_cast(text, refits);
    if (is_number && (refits == 0 || (refits >= kFewestRefits && refits <= 100000))) {
      return std::string();
    }
    return fmt::format("'{}' refits make no 95 % interval: give {} to 100000, or 0 for none", text,
                       kFewestRefits);
  };
  return command
      .add_option("--bootstrap", bootstrap,
                  fmt::format("refits for the 95 % intervals, at least {} (0: no intervals)",
                              kFewestRefits))
      ->check(CLI::Validator(enough, ""))
      ->capture_default_str();
}

void warn_of_unidentified(std::span<const std::string> formats) {
  if (formats.empty()) return;
  log::warn(
      "eff of {} is not known: the runs do not tell it; more runs would, of other sizes and tokens "
      "per parameter",
      fmt::join(formats, ", "));
}

void warn_about_fit(const scaling::FitResult& fit, std::span<const scaling::ScalingRun> runs) {
  if (const auto repeated = scaling::repeated_runs(runs); !repeated.empty()) {
    const auto [first, again] = repeated.front();
    log::warn("{} given more than once and counted as often: {} is {} again{}",
              format_count(static_cast<int64_t>(repeated.size()), "run"), runs[again].source,
              runs[first].source, repeated.size() > 1 ? ", ..." : "");
  }
  warn_of_unidentified(scaling::unidentified_formats(fit));
}

}  // namespace quest::cli
