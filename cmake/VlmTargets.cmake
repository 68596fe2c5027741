# vlm_library(NAME SRCS ... DEPS ... [PRIVATE_DEPS ...]) and vlm_test(NAME SRCS ... DEPS ... [LABELS ...]).
#
# One target per architectural module; allowed arrows are data in cmake/arrows.json and tests/tidy checks
# them against both the CMake links and the #include lines.

function(vlm_library NAME)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(vlm_${NAME} STATIC ${ARG_SRCS})
  add_library(vlm::${NAME} ALIAS vlm_${NAME})
  target_include_directories(vlm_${NAME} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(vlm_${NAME} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS} vlm_warnings)
endfunction()

# A program: its main.cc and wiring only; everything testable lives in a library.
function(vlm_program NAME)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${NAME} ${ARG_SRCS})
  target_include_directories(${NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${NAME} PRIVATE ${ARG_DEPS} vlm_warnings)
  set_target_properties(${NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  add_dependencies(vlm_programs ${NAME})
endfunction()

# One test binary per folder, and one CTest test per binary: fixtures that start an oracle (seconds of Python imports)
# or load LibTorch do so once. TIMEOUT is of the whole binary, in seconds.
function(vlm_test NAME)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT VLM_BUILD_TESTS)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 900)
  endif()
  add_executable(${NAME} ${ARG_SRCS})
  target_include_directories(${NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${NAME} PRIVATE ${ARG_DEPS} GTest::gtest_main GTest::gmock vlm_warnings)
  target_compile_definitions(${NAME} PRIVATE
    VLM_SOURCE_DIR="${PROJECT_SOURCE_DIR}" VLM_BINARY_DIR="${PROJECT_BINARY_DIR}"
    VLM_ORACLE_PYTHON="${PROJECT_SOURCE_DIR}/.deps/oracle/bin/python")
  set_target_properties(${NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_test(NAME ${NAME} COMMAND ${NAME} --gtest_brief=1)
  set_tests_properties(${NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "OMP_NUM_THREADS=1;MKL_NUM_THREADS=1")
endfunction()
