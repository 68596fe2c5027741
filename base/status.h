// absl::Status under the project's names, and the only two control macros.
#ifndef VLM_BASE_STATUS_H_
#define VLM_BASE_STATUS_H_

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vlm {

// Returns `status` with "context: " before its message, code and payloads kept. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// The last error of a system call as a Status: the code follows `error_number`
// (ENOENT -> NOT_FOUND, ENOSPC -> RESOURCE_EXHAUSTED, EEXIST -> ALREADY_EXISTS, EACCES -> PERMISSION_DENIED,
// everything else -> INTERNAL); the message is "<action>: <strerror>".
absl::Status ErrnoStatus(int error_number, std::string_view action);

}  // namespace vlm

#define VLM_RETURN_IF_ERROR(expression)                                              \
  do {                                                                               \
    if (absl::Status vlm_status = (expression); !vlm_status.ok()) return vlm_status; \
  } while (false)

#define VLM_STATUS_CONCAT_INNER(a, b) a##b
#define VLM_STATUS_CONCAT(a, b) VLM_STATUS_CONCAT_INNER(a, b)
#define VLM_ASSIGN_OR_RETURN_INNER(result, target, expression) \
  auto result = (expression);                                  \
  if (!result.ok()) return std::move(result).status();         \
  target = *std::move(result)
#define VLM_ASSIGN_OR_RETURN(target, expression) \
  VLM_ASSIGN_OR_RETURN_INNER(VLM_STATUS_CONCAT(vlm_result_, __LINE__), target, expression)

#endif  // VLM_BASE_STATUS_H_
