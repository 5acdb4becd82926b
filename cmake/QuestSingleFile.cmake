# quest_single_file(PROGRAM): links a program so that it is one file that needs the C library alone: C++'s
# libraries and fmt inside it, and no library that nothing calls. What cannot be had here is said while
# configuring, and the program then needs that shared library where it runs.
include_guard(GLOBAL)
set(quest_is_one_file 0)
set(quest_static_fmt FALSE)
set(quest_static_cxx FALSE)
if(QUEST_SANITIZE)  # a sanitizer's runtime wants the shared libraries
  message(STATUS "quest-run: with the shared libraries, because of the sanitizers")
else()
  # A program is linked to find out, as fmt's inside differs between releases.
  get_target_property(quest_fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
  try_compile(QUEST_CAN_LINK_STATIC_FMT ${CMAKE_BINARY_DIR}/probe_fmt
    SOURCES ${CMAKE_SOURCE_DIR}/cmake/static_fmt.cpp ${CMAKE_SOURCE_DIR}/cmake/probe_fmt.cpp
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${quest_fmt_include}" CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
  try_compile(QUEST_CAN_LINK_STATIC_CXX ${CMAKE_BINARY_DIR}/probe_cxx
    SOURCES ${CMAKE_SOURCE_DIR}/cmake/probe_cxx.cpp LINK_OPTIONS -static-libstdc++ -static-libgcc
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
  set(quest_static_fmt ${QUEST_CAN_LINK_STATIC_FMT})
  set(quest_static_cxx ${QUEST_CAN_LINK_STATIC_CXX})
  set(quest_shared "")
  if(NOT quest_static_fmt)
    list(APPEND quest_shared "libfmt (cmake/static_fmt.cpp does not fit this release of it)")
  endif()
  if(NOT quest_static_cxx)
    list(APPEND quest_shared "libstdc++ and libgcc_s (no static ones here)")
  endif()
  foreach(library quest_zlib quest_zstd)
    get_target_property(path ${library} INTERFACE_LINK_LIBRARIES)
    if(NOT path MATCHES "\\.a$")
      list(APPEND quest_shared "${path} (no static one here)")
    endif()
  endforeach()
  list(JOIN quest_shared ", " quest_shared)
  if(quest_shared)
    message(STATUS "quest-run: not one file, it needs these shared libraries where it runs: ${quest_shared}")
  else()
    set(quest_is_one_file 1)
    message(STATUS "quest-run: one file, needs the C library alone")
  endif()
endif()
if(quest_static_fmt)
  add_library(quest_static_fmt STATIC ${CMAKE_SOURCE_DIR}/cmake/static_fmt.cpp)
  target_link_libraries(quest_static_fmt PRIVATE fmt::fmt)
endif()

function(quest_single_file program)
  target_link_options(${program} PRIVATE -Wl,--as-needed)
  if(quest_static_fmt)
    # Whole, so that its place among the libraries does not matter.
    target_link_libraries(${program} PRIVATE -Wl,--whole-archive quest_static_fmt -Wl,--no-whole-archive)
  endif()
  get_target_property(type ${program} TYPE)
  if(quest_static_cxx AND type STREQUAL "EXECUTABLE")
    target_link_options(${program} PRIVATE -static-libstdc++ -static-libgcc)
  endif()
endfunction()
