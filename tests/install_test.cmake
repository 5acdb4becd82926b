# Installs this build to a temporary prefix and builds and runs examples/ against the installed package,
# as a program that embeds QuEST would. Arguments: SOURCE, BUILD, CXX, GENERATOR.
set(work ${BUILD}/install_test)
file(REMOVE_RECURSE ${work})

function(run name)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${name} failed (${status}):\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

function(expect name text)
  if(NOT output MATCHES "${text}")
    message(FATAL_ERROR "${name}: expected '${text}' in\n${output}")
  endif()
endfunction()

run(install ${CMAKE_COMMAND} --install ${BUILD} --prefix ${work}/prefix)
# Nothing installed may point back into this source tree: it can be moved or deleted.
file(GLOB_RECURSE texts ${work}/prefix/*.cmake ${work}/prefix/*.h)
foreach(text ${texts})
  file(STRINGS ${text} lines REGEX "${SOURCE}/quest|${SOURCE}/cmake|${BUILD}/")
  if(lines)
    message(FATAL_ERROR "${text} points into the source or build tree: ${lines}")
  endif()
endforeach()

run(configure ${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${work}/build -G ${GENERATOR}
  -DCMAKE_PREFIX_PATH=${work}/prefix -DCMAKE_CXX_COMPILER=${CXX})
run(build ${CMAKE_COMMAND} --build ${work}/build)

# The C interface alone, as where neither a C++ compiler nor the other libraries' packages are there.
file(WRITE ${work}/c/CMakeLists.txt "cmake_minimum_required(VERSION 3.22)
project(c_program LANGUAGES C)
find_package(quest REQUIRED COMPONENTS run)
add_executable(run_model ${SOURCE}/examples/run_model.c)
target_link_libraries(run_model PRIVATE quest::run)
")
set(disabled "")
foreach(package Threads fmt spdlog nlohmann_json)
  list(APPEND disabled -DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
run("configure of C" ${CMAKE_COMMAND} -S ${work}/c -B ${work}/c/build -G ${GENERATOR}
  -DCMAKE_PREFIX_PATH=${work}/prefix ${disabled})
run("build of C" ${CMAKE_COMMAND} --build ${work}/c/build)
execute_process(COMMAND ${work}/c/build/run_model RESULT_VARIABLE status ERROR_VARIABLE message)
if(NOT status EQUAL 2 OR NOT message MATCHES "usage")
  message(FATAL_ERROR "run_model without arguments: status ${status}, message ${message}")
endif()

run(quantize_row ${work}/build/quantize_row)
expect(quantize_row "w4a4 .* 0\\.01[12]")  # the error of 16 uniform levels on N(0,1) is 0.0115
run(exact_product ${work}/build/exact_product)
expect(exact_product "relative error of the product: 0\\.1[3-8]")  # sqrt(2 * 0.0115) = 0.152
run(list_tensors ${work}/build/list_tensors ${SOURCE}/tests/golden/quantizers.safetensors)
expect(list_tensors "int4\\.hadamard\\.trust\\.y")

run("installed quest-run" ${work}/prefix/bin/quest-run --version)
expect("installed quest-run" "quest [0-9]+\\.[0-9]+\\.[0-9]+")
execute_process(COMMAND ${work}/build/run_model ${work}/missing "And" 5
  RESULT_VARIABLE status ERROR_VARIABLE message)
if(NOT status EQUAL 4 OR NOT message MATCHES "missing")
  message(FATAL_ERROR "run_model of a missing folder: status ${status}, message ${message}")
endif()
if(EXISTS ${work}/prefix/bin/quest)
  run("installed quest" ${work}/prefix/bin/quest --version)
  expect("installed quest" "quest [0-9]+\\.[0-9]+\\.[0-9]+")
endif()

# A wrong file is an error with an exit code and a message, not a crash.
execute_process(COMMAND ${work}/build/list_tensors ${SOURCE}/README.md
  RESULT_VARIABLE status ERROR_VARIABLE message)
if(NOT status EQUAL 3 OR NOT message MATCHES "README.md")
  message(FATAL_ERROR "list_tensors of a text file: status ${status}, message ${message}")
endif()
file(REMOVE_RECURSE ${work})
