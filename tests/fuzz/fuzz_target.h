// What a fuzz target is: a function that is called with bytes, and the inputs it begins with.
//
// One target per file and program. Under Clang libFuzzer calls it and follows the coverage (scripts/fuzz); elsewhere
// mutation_driver.cc does, with a fixed number of seeded mutations, so that CTest runs every target in seconds.
#ifndef VLM_TESTS_FUZZ_FUZZ_TARGET_H_
#define VLM_TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Must return 0 for every input; what may not happen ends the process (VLM_CHECK, a sanitizer). The same input does the
// same every time, whatever was called before.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace vlm::fuzz {

// Defined by each target: inputs that reach deep, made by the tree's own writers. Those that once failed are files in
// tests/fuzz/corpus/<target>.
std::vector<std::string> Seeds();

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_FUZZ_TARGET_H_
