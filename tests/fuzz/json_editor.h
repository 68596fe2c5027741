// Changes JSON that a reader accepts: formats in JSON are mostly rules about well-formed documents, which changed
// bytes alone seldom are.
#ifndef VLM_TESTS_FUZZ_JSON_EDITOR_H_
#define VLM_TESTS_FUZZ_JSON_EDITOR_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_input.h"

namespace vlm::fuzz {

// `json` after up to 16 edits (a value replaced, removed, copied elsewhere, a key renamed), as text; in some cases with
// a repeated key, which the tree type cannot hold. Reads edits until a zero byte.
std::string EditJson(nlohmann::json json, FuzzInput* input);

// By the first byte: EditJson of one of `bases`, or the rest of the input as it is.
std::string ReadJsonText(const std::vector<nlohmann::json>& bases, FuzzInput* input);

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_JSON_EDITOR_H_
