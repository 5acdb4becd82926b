#include "quest/base/shutdown.h"

#include <cerrno>
#include <csignal>
#include <ctime>
#include <unistd.h>

#include <fmt/format.h>

#include "quest/base/error.h"

namespace quest {

namespace {

// A wish to end at once comes from a person, who needs longer than this to ask again.
constexpr double kSecondsOfOneWish = 0.2;

volatile std::sig_atomic_t g_signal = 0;
std::timespec g_first;  // when g_signal was set

double seconds_since(const std::timespec& then) {
  std::timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);  // allowed in a handler
  return static_cast<double>(now.tv_sec - then.tv_sec) +
         1e-9 * static_cast<double>(now.tv_nsec - then.tv_nsec);
}

extern "C" void quest_on_signal(int signal_number) {
  if (g_signal == 0) {
    clock_gettime(CLOCK_MONOTONIC, &g_first);
    g_signal = signal_number;
  } else if (signal_number == SIGINT && seconds_since(g_first) > kSecondsOfOneWish) {
    _exit(128 + signal_number);
  }
}

}  // namespace

void install_shutdown_handlers() {
  struct sigaction action = {};
  action.sa_handler = quest_on_signal;
  sigemptyset(&action.sa_mask);
  // A handler is not interrupted by the other signal: they share the time of the first.
  sigaddset(&action.sa_mask, SIGINT);
  sigaddset(&action.sa_mask, SIGTERM);
  // Writing a checkpoint must not fail with EINTR because someone asked to stop.
  action.sa_flags = SA_RESTART;
  for (const int signal_number : {SIGINT, SIGTERM}) {
    QUEST_CHECK(sigaction(signal_number, &action, nullptr) == 0, ErrorKind::kEnvironment,
                "cannot install a handler of signal {}: {}", signal_number, errno_text(errno));
  }
}

int shutdown_signal() { return g_signal; }

StoppedBySignal::StoppedBySignal(int signal_number)
    : std::runtime_error(fmt::format("stopped by {} before the end: there is no result",
                                     signal_number == SIGINT ? "SIGINT" : "SIGTERM")),
      signal_number_(signal_number) {}

void stop_if_asked() {
  if (const int signal_number = shutdown_signal(); signal_number != 0) {
    throw StoppedBySignal(signal_number);
  }
}

void reset_shutdown_signal() { g_signal = 0; }

}  // namespace quest
