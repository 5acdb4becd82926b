#include "quest/base/log.h"

#include <cstdlib>
#include <memory>
#include <string>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "quest/base/progress.h"

namespace quest::log {

namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarn:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::logger* make_logger() {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  auto* result = new spdlog::logger("quest", sink);
  result->set_pattern("[%H:%M:%S] %^%l%$: %v");
  result->flush_on(spdlog::level::trace);
  result->set_level(spdlog::level::info);
  const char* wanted = std::getenv("QUEST_LOG");
  if (wanted == nullptr || *wanted == '\0') return result;
  const std::string name = wanted;
  for (const auto& [text, level] : {std::pair{"debug", Level::kDebug},
                                    {"info", Level::kInfo},
                                    {"warn", Level::kWarn},
                                    {"error", Level::kError}}) {
    if (name == text) {
      result->set_level(to_spdlog(level));
      return result;
    }
  }
  result->warn("QUEST_LOG is '{}', allowed are debug, info, warn, error; using info", name);
  return result;
}

// Never destroyed: destructors of other static objects may still log.
spdlog::logger& logger() {
  static spdlog::logger* instance = make_logger();
  return *instance;
}

}  // namespace

void set_level(Level level) { logger().set_level(to_spdlog(level)); }

void write(Level level, std::string_view message) {
  spdlog::logger& out = logger();
  if (!out.should_log(to_spdlog(level))) return;
  clear_progress_line();
  out.log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

}  // namespace quest::log
