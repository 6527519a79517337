# Compiler flags of every target, and ccache. Flags hang on the interface target anneal_flags, never on global variables.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# Asserts of ours are ANNEAL_CHECK and always on, so Release means -O2; -O3 buys nothing where ATen does the arithmetic.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")

# All programs and shared libraries land in one folder, so that programs find each other beside themselves.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")

find_program(ANNEAL_CCACHE ccache)
if(ANNEAL_CCACHE)
  # base_dir makes two clones share objects; the sloppiness is what precompiled headers need.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${ANNEAL_CCACHE})
endif()

add_library(anneal_flags INTERFACE)
target_include_directories(anneal_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(anneal_flags INTERFACE -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # False positives of GCC 12 with inlined std::string, std::optional and std::variant (GCC bugs 105329, 105562, 105651).
  target_compile_options(anneal_flags INTERFACE -Wno-restrict -Wno-maybe-uninitialized -Wno-stringop-overflow
                                                -Wno-array-bounds -Wno-stringop-overread -Wno-dangling-pointer)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(anneal_flags INTERFACE -Wthread-safety -Wno-unused-private-field)
endif()
if(ANNEAL_SANITIZER STREQUAL "address")
  set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1)
elseif(ANNEAL_SANITIZER STREQUAL "thread")
  # Without the macro, headers of Debian's libraries lay out their classes as the libraries were built: without it.
  set(sanitize -fsanitize=thread -fno-omit-frame-pointer -O1 -g1 -Wno-tsan -U__SANITIZE_THREAD__ -D_GLIBCXX_TSAN=1)
elseif(ANNEAL_SANITIZER STREQUAL "fuzz")
  set(sanitize -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1)
elseif(ANNEAL_SANITIZER)
  message(FATAL_ERROR "ANNEAL_SANITIZER is address, thread, fuzz or empty, not '${ANNEAL_SANITIZER}'")
endif()
if(ANNEAL_SANITIZER)
  target_compile_options(anneal_flags INTERFACE ${sanitize})
  target_link_options(anneal_flags INTERFACE ${sanitize})
endif()
