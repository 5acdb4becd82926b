# quest_torch_pch: the torch headers, compiled once for all torch rooms, their tests and the programs.
file(WRITE ${CMAKE_BINARY_DIR}/quest_torch_pch.cpp "// The precompiled torch header of all torch rooms.\n")
add_library(quest_torch_pch OBJECT ${CMAKE_BINARY_DIR}/quest_torch_pch.cpp)
target_link_libraries(quest_torch_pch PUBLIC quest_torch quest_options fmt::fmt)
target_precompile_headers(quest_torch_pch PRIVATE <torch/torch.h> <fmt/format.h>)
