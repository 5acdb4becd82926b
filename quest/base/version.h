// The version of this program, as `--version`, `doctor`, logs and checkpoints print it.
#pragma once

#include <string>

namespace quest {

// "0.1.0": major.minor.patch, as the build declares it.
std::string version_number();
// One line: "quest 0.1.0 (Release, GCC 12.2.0, git 2d49fb9)". The git part is `git describe` when
// the library was built and is left out where there was no repository.
std::string version_text();

}  // namespace quest
