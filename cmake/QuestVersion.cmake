# What quest/base/version.cpp reports: the project's version, the build type and `git describe`. The last
# changes with every commit, so it is taken whenever something is built.
find_package(Git QUIET)
set(quest_git_folder ${CMAKE_BINARY_DIR}/git_stamp)
add_custom_target(quest_git_stamp BYPRODUCTS ${quest_git_folder}/git_describe.h
  COMMAND ${CMAKE_COMMAND} -DGIT=${GIT_EXECUTABLE} -DSOURCE=${CMAKE_SOURCE_DIR}
          -DOUTPUT=${quest_git_folder}/git_describe.h -P ${CMAKE_SOURCE_DIR}/cmake/git_stamp.cmake
  COMMENT "" VERBATIM)
add_dependencies(quest_base quest_git_stamp)
set_source_files_properties(${CMAKE_SOURCE_DIR}/quest/base/version.cpp PROPERTIES
  INCLUDE_DIRECTORIES ${quest_git_folder}
  COMPILE_DEFINITIONS "QUEST_VERSION=\"${PROJECT_VERSION}\";QUEST_BUILD_TYPE=\"${CMAKE_BUILD_TYPE}\"")
