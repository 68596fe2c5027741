// Messages of any type out of fuzzed bytes: every field can be reached, and values that the receiver knows (ids,
// fences) are hit often, which bytes on the wire hardly ever are.
#ifndef VLM_TESTS_FUZZ_MESSAGE_BUILDER_H_
#define VLM_TESTS_FUZZ_MESSAGE_BUILDER_H_

#include <google/protobuf/message.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_input.h"

namespace vlm::fuzz {

// By the name of a field, wherever it stands.
struct KnownValues {
  std::map<std::string, std::vector<std::string>> texts;
  std::map<std::string, std::vector<uint64_t>> numbers;
};

// Fills some fields of `message`, down to a depth of six. An input at its end leaves the rest unset.
void FillMessage(const KnownValues& known, FuzzInput* input, google::protobuf::Message* message);

// By the first byte either FillMessage or a parse of the next bytes; false when those do not parse.
bool ReadMessage(const KnownValues& known, FuzzInput* input, google::protobuf::Message* message);

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_MESSAGE_BUILDER_H_
