# quest_torch: LibTorch from, in this order, QUEST_TORCH_DIR (a LibTorch or a torch package folder), the
# project's .venv, or the python3 in PATH. Imported by hand and for the CPU alone: find_package(Torch) of
# a CUDA wheel fails where there is no CUDA toolkit.
set(QUEST_TORCH_DIR "" CACHE PATH "Folder with include/ and lib/ of LibTorch (or site-packages/torch)")
if(NOT QUEST_TORCH_DIR)
  file(GLOB quest_torch_candidates ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  if(quest_torch_candidates)
    list(GET quest_torch_candidates 0 QUEST_TORCH_DIR)
  else()
    find_program(QUEST_PYTHON python3)
    execute_process(COMMAND ${QUEST_PYTHON} -c
      "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE QUEST_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(NOT EXISTS "${QUEST_TORCH_DIR}/include/ATen/ATen.h")
  message(FATAL_ERROR "No LibTorch found (looked in '${QUEST_TORCH_DIR}'). Run `make setup`, or pass "
    "-DQUEST_TORCH_DIR=/path/to/libtorch, or build only the torch-free part with -DQUEST_WITH_TORCH=OFF.")
endif()
file(STRINGS "${QUEST_TORCH_DIR}/include/torch/version.h" quest_torch_version_line
     REGEX "define TORCH_VERSION ")
message(STATUS "LibTorch: ${QUEST_TORCH_DIR} ${quest_torch_version_line}")

add_library(quest_torch INTERFACE)
# After the system's folders: torch brings an fmt of its own.
target_compile_options(quest_torch INTERFACE
  "SHELL:-idirafter ${QUEST_TORCH_DIR}/include"
  "SHELL:-idirafter ${QUEST_TORCH_DIR}/include/torch/csrc/api/include")
target_link_libraries(quest_torch INTERFACE
  ${QUEST_TORCH_DIR}/lib/libtorch_cpu.so ${QUEST_TORCH_DIR}/lib/libc10.so)
target_link_options(quest_torch INTERFACE -Wl,-rpath,${QUEST_TORCH_DIR}/lib)

file(WRITE ${CMAKE_BINARY_DIR}/quest_torch_pch.cpp "// The precompiled torch header of all torch rooms.\n")
add_library(quest_torch_pch OBJECT ${CMAKE_BINARY_DIR}/quest_torch_pch.cpp)
target_link_libraries(quest_torch_pch PUBLIC quest_torch quest_options fmt::fmt)
target_precompile_headers(quest_torch_pch PRIVATE <torch/torch.h> <fmt/format.h>)
