// VLM_CHECK: the programmer's invariants. Always on; a failure prints place and message and aborts.
#ifndef VLM_BASE_CHECK_H_
#define VLM_BASE_CHECK_H_

#include <string_view>

namespace vlm {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, std::string_view message);

}  // namespace vlm

// `message` is evaluated only on failure. Not for expected failures: those are absl::Status.
#define VLM_CHECK(condition, message) \
  (static_cast<bool>(condition) ? (void)0 : ::vlm::CheckFailed(__FILE__, __LINE__, #condition, (message)))

#endif  // VLM_BASE_CHECK_H_
