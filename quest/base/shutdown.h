// SIGINT and SIGTERM as a flag that long loops look at between steps.
#pragma once

namespace quest {

// Installs handlers once. The first signal sets the flag; a second SIGINT ends the process at once.
void install_shutdown_handlers();
// 0, or the number of the signal that came. Exit code of a program that stopped for it: 128 +
// signal.
int shutdown_signal();
// For tests.
void reset_shutdown_signal();

}  // namespace quest
