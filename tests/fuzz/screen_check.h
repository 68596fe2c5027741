// What holds of everything that vlmctl shows, whatever it was told; but for logs, whose bytes it passes on.
#ifndef VLM_TESTS_FUZZ_SCREEN_CHECK_H_
#define VLM_TESTS_FUZZ_SCREEN_CHECK_H_

#include <google/protobuf/message.h>

#include <string_view>

namespace vlm::fuzz {

// Each ends the process when it does not hold.

// `text` is UTF-8 without a control character but line breaks, which it ends with when it is not empty.
void CheckScreen(std::string_view text);
// One line of CheckScreen's text, without its line break.
void CheckLine(std::string_view line);
// `message` has no text in JSON and YAML and an error says so; or its JSON reads back as the message, its YAML as the
// same document, and both are as CheckScreen wants.
void CheckDocuments(const google::protobuf::Message& message);
// `text` is one JSON document, or one YAML document.
void CheckJson(std::string_view text);
void CheckYaml(std::string_view text);

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_SCREEN_CHECK_H_
