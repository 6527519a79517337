# anneal_library, anneal_binary, anneal_test, anneal_proto_library: the only ways a target is made here.
# Names: the library of folder common/base is made by anneal_library(common_base ...) and linked as anneal::common_base.
include(GNUInstallDirs)

# anneal_library(NAME SRCS a.cc ... DEPS anneal::x ... [SHARED])
# Headers stand beside their sources and are not listed. A library without SRCS is an interface library.
function(anneal_library name)
  cmake_parse_arguments(arg "SHARED" "" "SRCS;DEPS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "anneal_library(${name}): what is '${arg_UNPARSED_ARGUMENTS}'?")
  endif()
  if(NOT arg_SRCS)
    add_library(anneal_${name} INTERFACE)
    target_link_libraries(anneal_${name} INTERFACE anneal_flags ${arg_DEPS})
  else()
    if(arg_SHARED)
      add_library(anneal_${name} SHARED ${arg_SRCS})
    else()
      add_library(anneal_${name} STATIC ${arg_SRCS})
    endif()
    target_link_libraries(anneal_${name} PUBLIC anneal_flags ${arg_DEPS})
  endif()
  add_library(anneal::${name} ALIAS anneal_${name})
endfunction()

# Programs checked by ThreadSanitizer carry what it must be told about Debian's libraries.
function(_anneal_explain_order name)
  if(ANNEAL_SANITIZER STREQUAL "thread")
    target_sources(${name} PRIVATE "${CMAKE_SOURCE_DIR}/common/base/testing/tsan_mutex.cc"
                                   "${CMAKE_SOURCE_DIR}/common/base/testing/tsan_grpc.cc")
    target_link_libraries(${name} PRIVATE absl::synchronization ${CMAKE_DL_LIBS})
  endif()
endfunction()

# anneal_binary(NAME SRCS main.cc ... DEPS ...): a program, named as users see it (anneal-worker).
function(anneal_binary name)
  cmake_parse_arguments(arg "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  target_link_libraries(${name} PRIVATE anneal_flags ${arg_DEPS})
  _anneal_explain_order(${name})
endfunction()

# anneal_test(NAME SRCS x_test.cc ... DEPS ... [LABELS unit] [TIMEOUT seconds] [ENVIRONMENT A=b ...] [PROGRAMS targets])
# One GoogleTest program, one ctest entry. LABELS defaults to unit (well under a second), TIMEOUT to 60 s.
# PROGRAMS are targets that must be built before the test can run.
function(anneal_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SRCS;DEPS;LABELS;ENVIRONMENT;PROGRAMS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  target_link_libraries(${name} PRIVATE anneal_flags ${arg_DEPS} GTest::gmock GTest::gtest_main Threads::Threads)
  _anneal_explain_order(${name})
  if(arg_PROGRAMS)
    add_dependencies(${name} ${arg_PROGRAMS})
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  _anneal_register(${name} "${arg_LABELS}" "${arg_TIMEOUT}" "${arg_ENVIRONMENT}")
  foreach(source IN LISTS arg_SRCS)
    set_property(GLOBAL APPEND PROPERTY ANNEAL_REGISTERED_TESTS "${CMAKE_CURRENT_SOURCE_DIR}/${source}")
  endforeach()
endfunction()

# anneal_python_test(NAME SCRIPT x_test.py [LABELS ...] [TIMEOUT ...] [ENVIRONMENT ...]): pytest in the build venv.
# The script finds programs through ANNEAL_BIN_DIR and the repository through ANNEAL_SOURCE_DIR.
function(anneal_python_test name)
  cmake_parse_arguments(arg "" "TIMEOUT;SCRIPT" "LABELS;ENVIRONMENT" ${ARGN})
  add_test(NAME ${name}
           COMMAND ${ANNEAL_PYTHON} -m pytest -q -x -p no:cacheprovider "${CMAKE_CURRENT_SOURCE_DIR}/${arg_SCRIPT}"
           WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  _anneal_register(${name} "${arg_LABELS}" "${arg_TIMEOUT}"
    "ANNEAL_BIN_DIR=${CMAKE_BINARY_DIR}/bin;ANNEAL_SOURCE_DIR=${CMAKE_SOURCE_DIR};PYTHONDONTWRITEBYTECODE=1;${arg_ENVIRONMENT}")
  set_property(GLOBAL APPEND PROPERTY ANNEAL_REGISTERED_TESTS "${CMAKE_CURRENT_SOURCE_DIR}/${arg_SCRIPT}")
endfunction()

function(_anneal_register name labels timeout environment)
  if(NOT labels)
    set(labels unit)
  endif()
  if(NOT timeout)
    set(timeout 60)
  endif()
  if(ANNEAL_SANITIZER STREQUAL "thread")
    set(suppressions "${CMAKE_SOURCE_DIR}/common/base/testing/tsan_suppressions.txt")
    list(APPEND environment "TSAN_OPTIONS=ignore_noninstrumented_modules=1 halt_on_error=1 suppressions=${suppressions}")
  endif()
  # Threads of OpenMP that wait must not spin: tests share the cores, and spinning starves the one that is waited for.
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout}
                       ENVIRONMENT "OMP_WAIT_POLICY=PASSIVE;${environment}")
endfunction()

# Every *_test.cc and *_test.py must belong to a test; a forgotten one would pass for ever.
function(anneal_check_every_test_is_registered)
  get_property(registered GLOBAL PROPERTY ANNEAL_REGISTERED_TESTS)
  file(GLOB_RECURSE found RELATIVE "${CMAKE_SOURCE_DIR}" CONFIGURE_DEPENDS
       common/*_test.cc coordinator/*_test.cc worker/*_test.cc tools/*_test.cc tests/*_test.cc
       common/*_test.py coordinator/*_test.py worker/*_test.py tools/*_test.py tests/*_test.py)
  foreach(file IN LISTS found)
    if(NOT "${CMAKE_SOURCE_DIR}/${file}" IN_LIST registered)
      if((file MATCHES "^worker/trainer/" OR file MATCHES "^tests/(numerics|integration)/" OR file MATCHES "_test.py$")
         AND (NOT ANNEAL_TRAINER OR NOT ANNEAL_INTEGRATION_TESTS))
        continue()
      endif()
      message(FATAL_ERROR "${file} is not registered as a test: add anneal_test or anneal_python_test beside it.")
    endif()
  endforeach()
endfunction()

# anneal_proto_library(NAME PROTOS a/b.proto ... [ROOT dir] [GRPC] DEPS ...): C++ from .proto files below ROOT.
# Generated files live in the build folder; warnings in them are not ours to mend.
function(anneal_proto_library name)
  cmake_parse_arguments(arg "GRPC" "ROOT" "PROTOS;DEPS" ${ARGN})
  if(NOT arg_ROOT)
    set(arg_ROOT "${CMAKE_SOURCE_DIR}/proto")
  endif()
  set(out "${CMAKE_BINARY_DIR}/proto")
  file(MAKE_DIRECTORY "${out}")
  set(generated "")
  foreach(proto IN LISTS arg_PROTOS)
    string(REGEX REPLACE "\\.proto$" "" stem "${proto}")
    set(outputs "${out}/${stem}.pb.cc" "${out}/${stem}.pb.h")
    set(plugin "")
    if(arg_GRPC)
      list(APPEND outputs "${out}/${stem}.grpc.pb.cc" "${out}/${stem}.grpc.pb.h")
      set(plugin --grpc_out=${out} --plugin=protoc-gen-grpc=${ANNEAL_GRPC_CPP_PLUGIN})
    endif()
    add_custom_command(
      OUTPUT ${outputs}
      COMMAND protobuf::protoc --cpp_out=${out} ${plugin} -I ${CMAKE_SOURCE_DIR}/proto -I ${ANNEAL_SITE_PACKAGES}
              ${proto}
      DEPENDS "${arg_ROOT}/${proto}"
      COMMENT "protoc ${proto}" VERBATIM)
    list(APPEND generated ${outputs})
  endforeach()
  add_library(anneal_${name} STATIC ${generated})
  target_include_directories(anneal_${name} SYSTEM PUBLIC "${out}")
  target_compile_options(anneal_${name} PRIVATE -w)
  target_link_libraries(anneal_${name} PUBLIC anneal_flags protobuf::libprotobuf ${arg_DEPS})
  if(arg_GRPC)
    target_link_libraries(anneal_${name} PUBLIC gRPC::grpc++)
  endif()
  add_library(anneal::${name} ALIAS anneal_${name})
endfunction()
