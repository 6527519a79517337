# LibTorch from the PyPI wheel, without find_package(Torch), which would drag in a whole CUDA toolkit.
#   anneal::torch       headers, definitions and torch_cpu + c10, with a run path into the wheel
#   anneal::torch_pch   the same with a precompiled header; what trainer libraries link
set(TORCH_DIR "${ANNEAL_SITE_PACKAGES}/torch")
if(NOT EXISTS "${TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "No torch wheel in ${ANNEAL_VENV}. Run tools/setup.")
endif()
add_library(anneal_torch INTERFACE)
add_library(anneal::torch ALIAS anneal_torch)
# -idirafter: the wheel ships old protobuf headers that must never win over the system's.
target_compile_options(anneal_torch INTERFACE
  "SHELL:-idirafter ${TORCH_DIR}/include" "SHELL:-idirafter ${TORCH_DIR}/include/torch/csrc/api/include"
  -Wno-sign-compare -Wno-deprecated-declarations)
# Without USE_DISTRIBUTED and USE_C10D_GLOO the c10d headers are silently empty.
target_compile_definitions(anneal_torch INTERFACE
  _GLIBCXX_USE_CXX11_ABI=1 USE_DISTRIBUTED USE_C10D_GLOO AT_PER_OPERATOR_HEADERS)
target_link_libraries(anneal_torch INTERFACE
  -Wl,--no-as-needed ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so -Wl,--as-needed)
target_link_options(anneal_torch INTERFACE "LINKER:-rpath,${TORCH_DIR}/lib")

# anneal_torch_pch(TARGET): use the shared precompiled header of ATen's core headers in a target.
file(WRITE "${CMAKE_BINARY_DIR}/pch/anchor.cc" "// Anchor of the precompiled torch header.\n")
add_library(anneal_torch_pch OBJECT "${CMAKE_BINARY_DIR}/pch/anchor.cc")
target_link_libraries(anneal_torch_pch PUBLIC anneal_flags anneal_torch)
target_compile_options(anneal_torch_pch PRIVATE -fpch-preprocess)
target_precompile_headers(anneal_torch_pch PRIVATE "${CMAKE_SOURCE_DIR}/worker/trainer/torch_pch.h")

# anneal_torch_library / anneal_torch_test: as anneal_library / anneal_test, with torch and its precompiled header.
function(anneal_torch_library name)
  anneal_library(${name} ${ARGN})
  _anneal_use_torch(anneal_${name} PUBLIC)
endfunction()
function(anneal_torch_test name)
  anneal_test(${name} ${ARGN})
  _anneal_use_torch(${name} PRIVATE)
endfunction()
function(_anneal_use_torch target visibility)
  target_link_libraries(${target} ${visibility} anneal_torch)
  # -fPIC for programs too, which otherwise get -fPIE: the compiler takes a precompiled header only with the settings it was made with.
  target_compile_options(${target} PRIVATE -fpch-preprocess -fPIC)
  target_precompile_headers(${target} REUSE_FROM anneal_torch_pch)
endfunction()
