# What quest/base/version.cpp reports: the project's version, the build type and `git describe`, taken
# when the build is configured.
find_package(Git QUIET)
set(quest_git_describe "")
if(GIT_FOUND AND EXISTS ${CMAKE_SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT_EXECUTABLE} describe --tags --always
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    OUTPUT_VARIABLE quest_git_describe OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set_source_files_properties(${CMAKE_SOURCE_DIR}/quest/base/version.cpp PROPERTIES COMPILE_DEFINITIONS
  "QUEST_VERSION=\"${PROJECT_VERSION}\";QUEST_BUILD_TYPE=\"${CMAKE_BUILD_TYPE}\";QUEST_GIT_DESCRIBE=\"${quest_git_describe}\"")
