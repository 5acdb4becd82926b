# Installs programs, libraries, headers and a CMake package:
#
#   find_package(quest REQUIRED)                    # quest::base, quest::quant, quest::kernels, ...
#   find_package(quest REQUIRED COMPONENTS run)     # quest::run alone, the C interface: needs no other
#                                                   # package and no C++ compiler
#   find_package(quest REQUIRED COMPONENTS torch)   # and quest::nn, quest::train, ...; takes the torch
#                                                   # of QUEST_TORCH_DIR or of python3
#   target_link_libraries(my_program PRIVATE quest::quant)
include(CMakePackageConfigHelpers)
set(quest_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/quest)

get_property(quest_rooms GLOBAL PROPERTY QUEST_ROOMS)
install(TARGETS ${quest_rooms} EXPORT quest_rooms ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS quest_run EXPORT quest_run LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT quest_run NAMESPACE quest:: FILE quest-run-targets.cmake DESTINATION ${quest_package_dir})
install(EXPORT quest_rooms NAMESPACE quest:: FILE quest-targets.cmake DESTINATION ${quest_package_dir})
if(QUEST_WITH_TORCH)
  get_property(quest_torch_rooms GLOBAL PROPERTY QUEST_TORCH_ROOMS)
  install(TARGETS ${quest_torch_rooms} EXPORT quest_torch_rooms
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT quest_torch_rooms NAMESPACE quest:: FILE quest-torch-targets.cmake
          DESTINATION ${quest_package_dir})
endif()
foreach(program quest quest-run)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()

install(DIRECTORY tests/golden data/paper DESTINATION ${CMAKE_INSTALL_DATADIR}/quest)
install(FILES data/expectations.json DESTINATION ${CMAKE_INSTALL_DATADIR}/quest)

# Headers of rooms that exist in this build, so that what is installed is what can be linked.
foreach(room ${quest_rooms} ${quest_torch_rooms})
  string(REPLACE "quest_" "" name ${room})
  if(EXISTS ${CMAKE_SOURCE_DIR}/quest/${name})
    install(DIRECTORY quest/${name} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/quest
            FILES_MATCHING PATTERN "*.h" PATTERN "*_test.h" EXCLUDE)
  endif()
endforeach()

configure_package_config_file(cmake/quest-config.cmake.in ${CMAKE_BINARY_DIR}/quest-config.cmake
  INSTALL_DESTINATION ${quest_package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/quest-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/quest-config.cmake ${CMAKE_BINARY_DIR}/quest-config-version.cmake
  cmake/QuestLibraries.cmake cmake/QuestProtobuf.cmake cmake/QuestTorch.cmake
  DESTINATION ${quest_package_dir})
