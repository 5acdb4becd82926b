# quest_torch: LibTorch from, in this order, QUEST_TORCH_DIR (CMake variable or environment: a LibTorch
# folder or a torch package's folder, conda's too), the project's .venv, or the python3 in PATH. Imported
# by hand: find_package(Torch) of a CUDA wheel fails where there is no CUDA toolkit. With QUEST_WITH_CUDA
# resolved to true (QuestCuda.cmake) libtorch_cuda is linked as well.
# Used by the build and, installed beside quest-config.cmake, by programs that embed quest.
include_guard(GLOBAL)
set(QUEST_TORCH_DIR "$ENV{QUEST_TORCH_DIR}" CACHE PATH
    "Folder with include/ and lib/ of LibTorch (or site-packages/torch)")
set(quest_torch_dir "${QUEST_TORCH_DIR}")
if(NOT quest_torch_dir)
  file(GLOB quest_torch_dir ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  if(quest_torch_dir)
    list(GET quest_torch_dir 0 quest_torch_dir)
  else()
    find_program(QUEST_PYTHON python3)
    if(QUEST_PYTHON)
      execute_process(COMMAND ${QUEST_PYTHON} -c
        "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
        OUTPUT_VARIABLE quest_torch_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
  endif()
endif()
if(NOT EXISTS "${quest_torch_dir}/include/ATen/ATen.h" OR NOT EXISTS "${quest_torch_dir}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "No LibTorch found (looked in '${quest_torch_dir}'). Run `make setup`, or pass "
    "-DQUEST_TORCH_DIR=/path/to/libtorch, or build only the torch-free part with -DQUEST_WITH_TORCH=OFF.")
endif()
# The header that holds the version moved between releases.
set(QUEST_TORCH_VERSION 0)
foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
  if(EXISTS ${quest_torch_dir}/include/${header})
    file(STRINGS ${quest_torch_dir}/include/${header} lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    if(lines)
      string(REGEX REPLACE "[^0-9;]" "" QUEST_TORCH_VERSION "${lines}")
      string(REPLACE ";" "." QUEST_TORCH_VERSION "${QUEST_TORCH_VERSION}")
      break()
    endif()
  endif()
endforeach()
message(STATUS "LibTorch ${QUEST_TORCH_VERSION} in ${quest_torch_dir}")

# Packages before 2.6 were built with the std::string of GCC 4 and do not link with today's libraries.
if(QUEST_TORCH_VERSION VERSION_LESS 2.6)
  message(FATAL_ERROR "LibTorch ${QUEST_TORCH_VERSION} in ${quest_torch_dir} is too old: 2.6 or newer is "
    "needed, 2.11 is what this version is tested with.")
endif()

add_library(quest_torch INTERFACE IMPORTED GLOBAL)
# After the system's folders: torch brings an fmt of its own.
target_compile_options(quest_torch INTERFACE
  "SHELL:-idirafter ${quest_torch_dir}/include"
  "SHELL:-idirafter ${quest_torch_dir}/include/torch/csrc/api/include")
target_link_libraries(quest_torch INTERFACE
  ${quest_torch_dir}/lib/libtorch_cpu.so ${quest_torch_dir}/lib/libc10.so)
# at::parallel_for is code of a header and runs on one thread unless it is compiled with OpenMP. It must
# use the runtime that libtorch uses: a second one has threads and a thread count of its own.
target_compile_options(quest_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
file(GLOB quest_torch_openmp ${quest_torch_dir}/lib/libgomp*.so*)
if(quest_torch_openmp)
  list(GET quest_torch_openmp 0 quest_torch_openmp)
  target_link_libraries(quest_torch INTERFACE ${quest_torch_openmp})
else()
  target_link_libraries(quest_torch INTERFACE -fopenmp)
endif()
if(QUEST_CUDA_FOUND)
  if(NOT EXISTS "${quest_torch_dir}/lib/libtorch_cuda.so" OR NOT EXISTS "${quest_torch_dir}/lib/libc10_cuda.so")
    message(FATAL_ERROR "The torch in ${quest_torch_dir} has no CUDA libraries: run `make setup PRESET=cuda`, "
      "or build for the CPU with -DQUEST_WITH_CUDA=OFF.")
  endif()
  # --no-as-needed: torch registers its CUDA backend when libtorch_cuda is loaded, nothing calls it.
  target_link_libraries(quest_torch INTERFACE -Wl,--no-as-needed
    ${quest_torch_dir}/lib/libtorch_cuda.so ${quest_torch_dir}/lib/libc10_cuda.so -Wl,--as-needed)
endif()
