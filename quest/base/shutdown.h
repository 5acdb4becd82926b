// SIGINT and SIGTERM as a flag that long loops look at between steps.
//
// Work that has something to keep (a training run) saves it and returns; work whose result would be
// incomplete calls stop_if_asked() between its steps. Both end the program with 128 + signal.
#pragma once

#include <stdexcept>

namespace quest {

// Installs handlers once. The first signal sets the flag; a SIGINT 0.2 s or more after it ends the
// process at once. One that comes sooner is the same wish told twice (timeout(1) signals a program
// and then its process group).
void install_shutdown_handlers();
// 0, or the number of the signal that came. Exit code of a program that stopped for it: 128 +
// signal.
int shutdown_signal();

// Thrown where a signal ends work that has no result yet. Not an Error: nothing was wrong.
class StoppedBySignal : public std::runtime_error {
 public:
  explicit StoppedBySignal(int signal_number);
  int signal_number() const { return signal_number_; }

 private:
  int signal_number_;
};

// Throws StoppedBySignal if a signal came.
void stop_if_asked();

// For tests.
void reset_shutdown_signal();

}  // namespace quest
