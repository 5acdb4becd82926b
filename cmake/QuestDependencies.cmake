# Libraries from the system's packages (scripts/setup.sh installs them; docs/dependencies.md says why).
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
include(QuestLibraries)

if(QUEST_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(QUEST_BUILD_BENCH)
  find_package(benchmark REQUIRED)
endif()
if(QUEST_WITH_TORCH)
  # Header-only, though the package's own target would link its library: one file includes it.
  quest_import_library(quest_tomlplusplus toml++/toml.h)
  include(QuestProtobuf)
endif()
