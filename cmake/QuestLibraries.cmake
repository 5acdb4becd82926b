# Libraries that bring no CMake package of their own: quest_sentencepiece, quest_zstd, quest_xxhash.
# Used by the build and, installed beside quest-config.cmake, by programs that embed quest.
include_guard(GLOBAL)

# quest_import_library(TARGET HEADER LIBRARY...): an imported target of a header's folder and libraries.
function(quest_import_library target header)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  find_path(${target}_INCLUDE ${header} REQUIRED)
  target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE})
  foreach(library ${ARGN})
    find_library(${target}_${library}_LIBRARY NAMES ${library} REQUIRED)
    target_link_libraries(${target} INTERFACE ${${target}_${library}_LIBRARY})
  endforeach()
endfunction()

quest_import_library(quest_sentencepiece sentencepiece_processor.h sentencepiece sentencepiece_train)
quest_import_library(quest_zstd zstd.h zstd)
quest_import_library(quest_xxhash xxhash.h)  # header-only, see the definition
target_compile_definitions(quest_xxhash INTERFACE XXH_INLINE_ALL)
