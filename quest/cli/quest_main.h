// The program `quest` as a function, so that a program of your own can add quantizers to it
// (docs/extend.md):
//
//   int main(int argc, char** argv) {
//     quest::ops::register_quantizer(...);
//     return quest::cli::quest_main(argc, argv);
//   }
#pragma once

namespace quest::cli {

// Reads the command line and runs the command. Returns the exit code (cli_run/run_program.h).
int quest_main(int argc, char** argv);

}  // namespace quest::cli
