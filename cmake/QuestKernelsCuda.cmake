# quest_kernels_cuda: the GPU kernels (quest/kernels/cuda), or without nvcc their twin that throws
# (quest/kernels/no_cuda). A library of its own, so that the torch-free programs do not carry them.
if(QUEST_CUDA_FOUND)
  file(GLOB quest_cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/quest/kernels/cuda/*.cu
                                                 ${CMAKE_SOURCE_DIR}/quest/kernels/cuda/*.cpp)
else()
  file(GLOB quest_cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/quest/kernels/no_cuda/*.cpp)
endif()
add_library(quest_kernels_cuda STATIC ${quest_cuda_sources})
target_link_libraries(quest_kernels_cuda PUBLIC quest_quant quest_base $<BUILD_INTERFACE:quest_options>)
target_compile_features(quest_kernels_cuda PUBLIC cxx_std_20)
target_include_directories(quest_kernels_cuda PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>
                                                     $<INSTALL_INTERFACE:include>)
set_target_properties(quest_kernels_cuda PROPERTIES EXPORT_NAME kernels_cuda)
add_library(quest::kernels_cuda ALIAS quest_kernels_cuda)
if(QUEST_CUDA_FOUND)
  # No contraction: the quantizers promise the bits of the scalar definition. NDEBUG: the asserts of
  # CUTLASS are calls, and a call in a wgmma pipeline serializes it.
  target_compile_options(quest_kernels_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false --expt-relaxed-constexpr -DNDEBUG -Xcompiler=-fno-strict-aliasing>)
  target_include_directories(quest_kernels_cuda SYSTEM PRIVATE ${quest_cutlass_dir}/include
                                                               ${quest_cutlass_dir}/tools/util/include)
  string(REPLACE ";" " " quest_architectures "${CMAKE_CUDA_ARCHITECTURES}")
  target_compile_definitions(quest_kernels_cuda PRIVATE "QUEST_CUDA_ARCHITECTURES=\"${quest_architectures}\"")
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries(quest_kernels_cuda PRIVATE CUDA::cudart_static)
endif()
set_property(GLOBAL APPEND PROPERTY QUEST_TORCH_ROOMS quest_kernels_cuda)
