# Libraries that bring no CMake package of their own: quest_sentencepiece, quest_zlib, quest_zstd,
# quest_xxhash.
# Used by the build and, installed beside quest-config.cmake, by programs that embed quest.
include_guard(GLOBAL)

# quest_import_library(TARGET HEADER LIBRARY...): an imported target of a header's folder and libraries.
# static:NAME is libNAME.a where there is one, else the shared library.
function(quest_import_library target header)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  find_path(${target}_INCLUDE ${header} REQUIRED)
  target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE})
  foreach(library ${ARGN})
    set(place ${target}_${library}_LIBRARY)
    set(names ${library})
    if(library MATCHES "^static:(.*)$")
      set(place ${target}_${CMAKE_MATCH_1}_ARCHIVE)
      set(names lib${CMAKE_MATCH_1}.a ${CMAKE_MATCH_1})
    endif()
    find_library(${place} NAMES ${names} REQUIRED)
    target_link_libraries(${target} INTERFACE ${${place}})
  endforeach()
endfunction()

quest_import_library(quest_sentencepiece sentencepiece_processor.h sentencepiece sentencepiece_train)
quest_import_library(quest_zlib zlib.h static:z)
quest_import_library(quest_zstd zstd.h static:zstd)
quest_import_library(quest_xxhash xxhash.h)  # header-only, see the definition
target_compile_definitions(quest_xxhash INTERFACE XXH_INLINE_ALL)
