# Precompiled headers. Most of a build's time is the reading of headers that hundreds of sources have in common: 12 of
# the 16 s of a source that includes ATen/ATen.h, 3 to 5 of the 5 to 8 s of one that includes the generated messages.
#
# A target names its set with PRECOMPILED in vlm_library, vlm_program or vlm_test:
#   standard  (when none is named) the standard library, absl::Status and strings, nlohmann::json
#   messages  that and the generated messages
#   torch     that and ATen; never together with messages: the wheel ships Protobuf headers of another version
# and a test's also holds GoogleTest. Sources include what they use all the same: scripts/analyse compiles them without.
# Options that define macros the headers look at (-fno-math-errno, -mavx2) are for all sources, or the source with such
# an option of its own has SKIP_PRECOMPILE_HEADERS; -O3 and the like may differ.
set(_standard <algorithm> <array> <atomic> <cmath> <cstdint> <deque> <functional> <map> <memory> <optional> <set> <span>
    <sstream> <string> <string_view> <thread> <utility> <variant> <vector>
    <absl/status/statusor.h> <absl/strings/str_cat.h> <absl/strings/str_join.h> <absl/time/time.h> <nlohmann/json.hpp>)
set(_messages <vlm/v1/job.pb.h> <vlm/v1/record.pb.h> <vlm/v1/worker.pb.h> <vlm/v1/checkpoint.pb.h>)
set(_torch <ATen/ATen.h>)
set(_test <gtest/gtest.h> <gmock/gmock.h>)

file(WRITE ${PROJECT_BINARY_DIR}/precompiled.cc "// A precompiled header belongs to a target, and a target has a source.\n")

# vlm_precompiled(NAME LINKS ... HEADERS ...)
function(vlm_precompiled NAME)
  cmake_parse_arguments(ARG "" "" "LINKS;HEADERS" ${ARGN})
  add_library(vlm_precompiled_${NAME} OBJECT EXCLUDE_FROM_ALL ${PROJECT_BINARY_DIR}/precompiled.cc)
  target_link_libraries(vlm_precompiled_${NAME} PRIVATE ${ARG_LINKS} vlm_warnings)
  target_precompile_headers(vlm_precompiled_${NAME} PRIVATE ${ARG_HEADERS})
endfunction()

foreach(kind library test)
  set(_headers ${_standard})
  set(_links absl::statusor absl::strings absl::time nlohmann_json::nlohmann_json)
  if(kind STREQUAL "test")
    if(NOT VLM_BUILD_TESTS)
      continue()
    endif()
    list(APPEND _headers ${_test})
    list(APPEND _links GTest::gtest GTest::gmock)
  endif()
  vlm_precompiled(standard_${kind} LINKS ${_links} HEADERS ${_headers})
  vlm_precompiled(messages_${kind} LINKS vlm::proto_messages ${_links} HEADERS ${_headers} ${_messages})
  vlm_precompiled(torch_${kind} LINKS vlm::torch ${_links} HEADERS ${_headers} ${_torch})
endforeach()

# vlm_use_precompiled(TARGET SET KIND): KIND is library or test, an empty SET the standard one.
function(vlm_use_precompiled TARGET SET KIND)
  if(NOT SET)
    set(SET standard)
  endif()
  target_precompile_headers(${TARGET} REUSE_FROM vlm_precompiled_${SET}_${KIND})
endfunction()
