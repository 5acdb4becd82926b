// What the programs' main functions share: parse, run, one catch for all errors, exit code by kind.
//
//   int main(int argc, char** argv) {
//     CLI::App app{"..."};
//     add commands whose callbacks do the work and throw quest::Error
//     return quest::cli::run_program(app, argc, argv);
//   }
#pragma once

namespace CLI {
class App;
}

namespace quest::cli {

// 0; 2 for a wrong command line; exit_code(kind) for an Error; 128 + signal where one ended the
// work. Messages go to stderr.
int run_program(CLI::App& app, int argc, char** argv);

}  // namespace quest::cli
