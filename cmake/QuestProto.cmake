# quest_proto(ROOM FILE.proto): messages of the lite runtime, compiled by protoc as objects of their own
# (generated code does not keep our warnings) that become part of quest_ROOM. The header is included as
# "FILE.pb.h".
function(quest_proto room file)
  get_filename_component(name ${file} NAME_WE)
  get_filename_component(folder ${CMAKE_SOURCE_DIR}/${file} DIRECTORY)
  set(out ${CMAKE_BINARY_DIR}/proto)
  file(MAKE_DIRECTORY ${out})
  add_custom_command(
    OUTPUT ${out}/${name}.pb.cc ${out}/${name}.pb.h
    COMMAND protobuf::protoc --proto_path=${folder} --cpp_out=${out} ${CMAKE_SOURCE_DIR}/${file}
    DEPENDS ${CMAKE_SOURCE_DIR}/${file}
    COMMENT "protoc ${file}" VERBATIM)
  add_library(quest_${name}_proto OBJECT ${out}/${name}.pb.cc)
  target_include_directories(quest_${name}_proto SYSTEM PRIVATE ${out} ${Protobuf_INCLUDE_DIRS})
  target_sources(quest_${room} PRIVATE $<TARGET_OBJECTS:quest_${name}_proto>)
  target_include_directories(quest_${room} SYSTEM PRIVATE ${out})
  add_dependencies(quest_${room} quest_${name}_proto)
endfunction()
