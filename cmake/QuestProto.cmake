# quest_proto(ROOM FILE.proto): messages of the lite runtime, compiled by protoc into an object library of
# their own (generated code does not keep our warnings) and linked into quest_ROOM. The header is
# included as "FILE.pb.h".
function(quest_proto room file)
  get_filename_component(name ${file} NAME_WE)
  get_filename_component(folder ${CMAKE_SOURCE_DIR}/${file} DIRECTORY)
  set(out ${CMAKE_BINARY_DIR}/proto)
  file(MAKE_DIRECTORY ${out})
  add_custom_command(
    OUTPUT ${out}/${name}.pb.cc ${out}/${name}.pb.h
    COMMAND protobuf::protoc --proto_path=${folder} --cpp_out=${out} ${CMAKE_SOURCE_DIR}/${file}
    DEPENDS ${CMAKE_SOURCE_DIR}/${file} protobuf::protoc
    COMMENT "protoc ${file}" VERBATIM)
  add_library(quest_${name}_proto STATIC ${out}/${name}.pb.cc)
  target_include_directories(quest_${name}_proto SYSTEM PUBLIC ${out})
  target_link_libraries(quest_${name}_proto PUBLIC quest_protobuf)
  target_link_libraries(quest_${room} PRIVATE quest_${name}_proto)
endfunction()
