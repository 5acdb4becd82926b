# cmake -DGIT=git -DSOURCE=tree -DOUTPUT=header -P git_stamp.cmake: writes what `git describe` says of the
# tree, "" where there is no git or no repository. Only if the text changes, so that nothing is compiled
# again without need.
set(describe "")
if(GIT AND EXISTS ${SOURCE}/.git)
  execute_process(COMMAND ${GIT} describe --tags --always WORKING_DIRECTORY ${SOURCE}
    OUTPUT_VARIABLE describe OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set(text "#define QUEST_GIT_DESCRIBE \"${describe}\"\n")
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT text STREQUAL old)
  file(WRITE ${OUTPUT} "${text}")
endif()
