// What `quest fit`, `quest plan` and `quest plot --fit` share about the law that they fit.
#pragma once

#include <span>
#include <string>

#include <CLI/CLI.hpp>

#include "quest/scaling/scaling_law.h"

namespace quest::cli {

// Fewer refits have no 95 % interval: their outermost values would be called so.
inline constexpr int kFewestRefits = 20;

// --bootstrap: 0, or kFewestRefits and more.
CLI::Option* add_bootstrap_option(CLI::App& command, int& bootstrap);

// Warns of formats whose eff the runs do not tell, if there are any.
void warn_of_unidentified(std::span<const std::string> formats);
// The same of a fit, and of runs that count more than once.
void warn_about_fit(const scaling::FitResult& fit, std::span<const scaling::ScalingRun> runs);

}  // namespace quest::cli
