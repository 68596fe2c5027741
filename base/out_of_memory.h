// RESOURCE_EXHAUSTED for memory, told apart from a full disk or too many files: the remedy is another one.
#ifndef VLM_BASE_OUT_OF_MEMORY_H_
#define VLM_BASE_OUT_OF_MEMORY_H_

#include <string_view>

#include "absl/strings/cord.h"
#include "base/status.h"

namespace vlm {

// The mark, kept by Annotate.
inline constexpr char kOutOfMemoryPayload[] = "vlm.out_of_memory";

// RESOURCE_EXHAUSTED with the mark: memory of the host or of a device ran out.
inline absl::Status OutOfMemoryError(std::string_view message) {
  absl::Status status = absl::ResourceExhaustedError(absl::string_view(message.data(), message.size()));
  status.SetPayload(kOutOfMemoryPayload, absl::Cord());
  return status;
}

inline bool IsOutOfMemory(const absl::Status& status) { return status.GetPayload(kOutOfMemoryPayload).has_value(); }

}  // namespace vlm

#endif  // VLM_BASE_OUT_OF_MEMORY_H_
