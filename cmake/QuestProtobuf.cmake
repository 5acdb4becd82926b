# quest_protobuf: protobuf's lite library, static and hidden from libtorch and SentencePiece, which carry
# other versions of it. Used by the build and, installed beside quest-config.cmake, by programs that embed
# the rooms below the torch line.
include_guard(GLOBAL)
find_package(Protobuf REQUIRED)
find_library(QUEST_PROTOBUF_LITE NAMES libprotobuf-lite.a protobuf-lite REQUIRED)
add_library(quest_protobuf INTERFACE IMPORTED GLOBAL)
target_include_directories(quest_protobuf SYSTEM INTERFACE ${Protobuf_INCLUDE_DIRS})
target_link_libraries(quest_protobuf INTERFACE ${QUEST_PROTOBUF_LITE} Threads::Threads)
target_link_options(quest_protobuf INTERFACE -Wl,--exclude-libs,libprotobuf-lite.a)
