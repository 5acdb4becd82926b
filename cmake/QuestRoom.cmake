# quest_room(NAME [TORCH] [DEPS room...] [LINK target...] [PRIVATE target...]): the static library
# quest_NAME (quest::NAME) of quest/NAME/**/*.cpp, and the test program quest_NAME_test of every
# *_test.cpp below it, found by glob so that none is forgotten. A room without sources is an interface.
# A room in two parts: FOLDER room ONLY file... for the one, EXCEPT file... for the other (names without .cpp).
add_library(quest_options INTERFACE)
target_compile_options(quest_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Werror>
  # GCC's analyses of data flow complain about the inside of std::string, differently in each release
  # (GCC bugs 105329, 105651): warnings they stay, but a newer compiler must not stop the build.
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-error=restrict -Wno-error=array-bounds
    -Wno-error=stringop-overflow -Wno-error=stringop-overread -Wno-error=maybe-uninitialized>)
add_library(quest_sanitize INTERFACE)
if(QUEST_SANITIZE)
  target_compile_options(quest_sanitize INTERFACE -fsanitize=${QUEST_SANITIZE} -fno-sanitize-recover=all
                                                  -fno-omit-frame-pointer -g1)
  target_link_options(quest_sanitize INTERFACE -fsanitize=${QUEST_SANITIZE})
endif()

# Torch's and CLI11's headers cost far more than a source that includes them: such sources are compiled
# several at a time.
set(QUEST_UNITY_BATCH 4 CACHE STRING
  "Sources compiled at a time where headers are costly; 1: each alone, slower from nothing, faster after an edit")
function(quest_compile_in_batches target)
  if(QUEST_UNITY_BATCH GREATER 1)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${QUEST_UNITY_BATCH})
  endif()
endfunction()

function(quest_room name)
  cmake_parse_arguments(ROOM "TORCH" "FOLDER" "DEPS;LINK;PRIVATE;PUBLIC_HEADERS_LINK;ONLY;EXCEPT" ${ARGN})
  if(NOT ROOM_FOLDER)
    set(ROOM_FOLDER ${name})
  endif()
  set(dir ${CMAKE_SOURCE_DIR}/quest/${ROOM_FOLDER})
  file(GLOB_RECURSE all CONFIGURE_DEPENDS ${dir}/*.cpp)
  list(JOIN ROOM_ONLY "|" only)
  list(JOIN ROOM_EXCEPT "|" except)
  if(only)
    list(FILTER all INCLUDE REGEX "/(${only})(_test)?\\.cpp$")
  endif()
  if(except)
    list(FILTER all EXCLUDE REGEX "/(${except})(_test)?\\.cpp$")
  endif()
  set(sources ${all})
  list(FILTER sources EXCLUDE REGEX "(_test|/main)\\.cpp$")  # main.cpp: a program of its own
  # Sources of the GPU side: one of the two folders (kernels: QuestKernelsCuda.cmake builds them).
  if(name STREQUAL "kernels" OR NOT QUEST_CUDA_FOUND)
    list(FILTER sources EXCLUDE REGEX "/cuda/")
  endif()
  if(name STREQUAL "kernels" OR QUEST_CUDA_FOUND)
    list(FILTER sources EXCLUDE REGEX "/no_cuda/")
  endif()
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(FILTER sources EXCLUDE REGEX "/x86/")
  endif()
  set(tests ${all})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")

  list(TRANSFORM ROOM_DEPS PREPEND quest_ OUTPUT_VARIABLE deps)
  if(sources)
    add_library(quest_${name} STATIC ${sources})
    set(scope PUBLIC)
    target_link_libraries(quest_${name} PRIVATE ${ROOM_PRIVATE})
  else()
    add_library(quest_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  if(ROOM_TORCH)
    list(APPEND ROOM_LINK quest_torch)
    if(QUEST_CUDA_FOUND AND sources MATCHES "/cuda/")  # calls of CUDA's runtime, whose headers torch's need
      target_include_directories(quest_${name} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
      target_link_libraries(quest_${name} PRIVATE CUDA::cudart_static)
    endif()
  endif()
  # Our own warnings and sanitizers are for this build, not for programs that embed an installed room.
  target_link_libraries(quest_${name} ${scope} ${deps} ${ROOM_LINK} ${ROOM_PUBLIC_HEADERS_LINK}
    $<BUILD_INTERFACE:quest_options> $<BUILD_INTERFACE:quest_sanitize>)
  target_compile_features(quest_${name} ${scope} cxx_std_20)
  target_include_directories(quest_${name} ${scope} $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>
                                                    $<INSTALL_INTERFACE:include>)
  if(sources AND (ROOM_TORCH OR name STREQUAL "cli_run"))
    quest_compile_in_batches(quest_${name})
    # An Impl with members of unnamed namespaces' types is a warning in a file that is included.
    set(gpu_sources ${sources})
    list(FILTER gpu_sources INCLUDE REGEX "/cuda/")
    set_source_files_properties(${gpu_sources} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endif()
  add_library(quest::${name} ALIAS quest_${name})
  set_target_properties(quest_${name} PROPERTIES EXPORT_NAME ${name})
  if(ROOM_TORCH)
    set_property(GLOBAL APPEND PROPERTY QUEST_TORCH_ROOMS quest_${name})
  else()
    set_property(GLOBAL APPEND PROPERTY QUEST_ROOMS quest_${name})
  endif()

  # No contraction in rooms whose bits are promised.
  if(sources AND name MATCHES "^(base|quant|kernels|model|runtime|eval)$")
    target_compile_options(quest_${name} PRIVATE -ffp-contract=off -fno-fast-math)
  endif()
  # Kernels: one file per instruction-set level (x86/<operation>_<level>.cpp), each with its own flags.
  if(sources AND (name STREQUAL "kernels" OR name STREQUAL "quant"))
    target_compile_options(quest_${name} PRIVATE -fno-math-errno)
    foreach(source ${sources})
      if(source MATCHES "/x86/.*_avx2\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
      elseif(source MATCHES "/x86/.*_avx512\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
          "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mprefer-vector-width=512")
      elseif(source MATCHES "/x86/.*_avx512vnni\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
          "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx512vbmi;-mavx512bitalg;-mavx512vpopcntdq;-mprefer-vector-width=512")
      elseif(source MATCHES "/x86/.*_avx512bf16\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
          "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx512vbmi;-mavx512bf16;-mprefer-vector-width=512")
      elseif(source MATCHES "/x86/.*_amx\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
          "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx512vbmi;-mavx512bf16;-mamx-tile;-mamx-int8;-mamx-bf16;-mprefer-vector-width=512")
      endif()
    endforeach()
  endif()

  if(QUEST_BUILD_TESTS AND tests)
    add_executable(quest_${name}_test ${tests})
    target_link_libraries(quest_${name}_test PRIVATE quest_${name} GTest::gtest GTest::gmock GTest::gtest_main)
    target_compile_definitions(quest_${name}_test PRIVATE
      QUEST_SOURCE_DIR="${CMAKE_SOURCE_DIR}" QUEST_BINARY_DIR="${CMAKE_BINARY_DIR}")
    add_test(NAME ${name} COMMAND quest_${name}_test)
    # Several tests share the cores: OpenMP threads that wait must not spin.
    set_tests_properties(${name} PROPERTIES TIMEOUT 900 ENVIRONMENT "OMP_WAIT_POLICY=passive")
  endif()
endfunction()
