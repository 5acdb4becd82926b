// Drawing through gnuplot, a program of its own: find it, quote text for it, run a script.
//
//   run_gnuplot("set terminal svg\nset output quest_output\nplot sin(x)\n", "curve.svg");
//
// Thread rules: any thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace quest::plot {

// Full path of the program: QUEST_GNUPLOT if set, else `gnuplot` in PATH. Empty if there is none.
std::filesystem::path find_gnuplot();

// find_gnuplot(), or throws kEnvironment saying how to install it.
std::filesystem::path require_gnuplot();

// Text as one gnuplot string: in single quotes, inside which gnuplot interprets nothing. Control
// characters become spaces; each byte that is not UTF-8 becomes the replacement character U+FFFD.
std::string gnuplot_quote(std::string_view text);

// Runs a script with gnuplot (no shell, no start-up files of the user). The script writes its
// picture to the gnuplot variable `quest_output`, a temporary file that is renamed to `output` when
// gnuplot has ended well. Throws kEnvironment (no gnuplot; gnuplot failed: with its message) or
// kIo.
void run_gnuplot(std::string_view script, const std::filesystem::path& output);

}  // namespace quest::plot
