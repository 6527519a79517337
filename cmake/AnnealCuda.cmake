# CUDA from the PyPI wheels in the build venv: nvcc, its headers, the runtime and NCCL. No CUDA toolkit and no GPU are needed
# to build, and CMake's own CUDA language is not used: it wants a whole toolkit and links a test program.
#   anneal::cuda          headers, torch_cuda, c10_cuda, cudart and NCCL, with run paths into the wheels
#   anneal::cuda_headers  the headers alone, for what is tested without a device
#   anneal_cuda_objects   compiles .cu files
set(CUDA_DIR "${ANNEAL_SITE_PACKAGES}/nvidia/cu13")
set(NCCL_DIR "${ANNEAL_SITE_PACKAGES}/nvidia/nccl")
set(ANNEAL_NVCC "${CUDA_DIR}/bin/nvcc")
foreach(needed "${ANNEAL_NVCC}" "${CUDA_DIR}/nvvm/bin/cicc" "${CUDA_DIR}/lib/libcudart.so.13" "${NCCL_DIR}/include/nccl.h"
               "${TORCH_DIR}/lib/libtorch_cuda.so")
  if(NOT EXISTS "${needed}")
    message(FATAL_ERROR "${needed} is missing. Run tools/setup, or configure with -DANNEAL_CUDA=OFF.")
  endif()
endforeach()
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  message(FATAL_ERROR "The CUDA part is built with g++. Configure with -DANNEAL_CUDA=OFF for ${CMAKE_CXX_COMPILER_ID}.")
endif()

add_library(anneal_cuda_headers INTERFACE)
add_library(anneal::cuda_headers ALIAS anneal_cuda_headers)
target_include_directories(anneal_cuda_headers SYSTEM INTERFACE "${CUDA_DIR}/include" "${NCCL_DIR}/include")

# Calls to cudart and NCCL meet the same two libraries that torch_cuda loads.
add_library(anneal_cuda INTERFACE)
add_library(anneal::cuda ALIAS anneal_cuda)
target_link_libraries(anneal_cuda INTERFACE
  anneal_cuda_headers
  -Wl,--no-as-needed ${TORCH_DIR}/lib/libtorch_cuda.so ${TORCH_DIR}/lib/libc10_cuda.so -Wl,--as-needed
  ${CUDA_DIR}/lib/libcudart.so.13 ${NCCL_DIR}/lib/libnccl.so.2)
target_link_options(anneal_cuda INTERFACE
  "LINKER:-rpath,${CUDA_DIR}/lib" "LINKER:-rpath,${NCCL_DIR}/lib"
  # torch_cuda's own needs (cuDNN, cuSPARSELt, ...) are found by its own run path, at run time.
  "LINKER:--allow-shlib-undefined")

# Ampere and Hopper as machine code; compute_80 also as PTX, which the driver compiles for whatever comes after.
set(nvcc_flags
  -std=c++20 -O3 --compiler-bindir ${CMAKE_CXX_COMPILER}
  -gencode arch=compute_80,code=[compute_80,sm_80] -gencode arch=compute_90a,code=sm_90a
  -Xcompiler=-fPIC,-Wall,-Wextra --Werror all-warnings -I ${CMAKE_SOURCE_DIR})

# anneal_cuda_objects(OUT SRCS a.cu ...): compiles each file and names the objects in OUT, to be listed as sources of a target.
# A .cu file includes no torch header: it takes plain pointers, so nvcc compiles it in seconds.
function(anneal_cuda_objects out)
  cmake_parse_arguments(arg "" "" "SRCS" ${ARGN})
  set(objects "")
  foreach(source IN LISTS arg_SRCS)
    set(input "${CMAKE_CURRENT_SOURCE_DIR}/${source}")
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${source}.o")
    add_custom_command(
      OUTPUT "${object}"
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${ANNEAL_NVCC} ${nvcc_flags} -MD -MF "${object}.d" -c "${input}" -o "${object}"
      DEPENDS "${input}" "${ANNEAL_NVCC}" DEPFILE "${object}.d"
      COMMENT "nvcc ${source}" VERBATIM)
    list(APPEND objects "${object}")
  endforeach()
  set(${out} "${objects}" PARENT_SCOPE)
endfunction()
