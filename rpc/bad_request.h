// Which fields of a request are wrong, carried beside a status as google.rpc.BadRequest.
#ifndef VLM_RPC_BAD_REQUEST_H_
#define VLM_RPC_BAD_REQUEST_H_

#include <cstddef>
#include <string>
#include <vector>

#include "base/status.h"

namespace vlm::rpc {

inline constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
// A status travels in HTTP/2 trailers, which peers accept up to 8 KiB in all: with more, the client would see
// RESOURCE_EXHAUSTED in place of the error. So much is for the violations, the rest for message and metadata.
inline constexpr size_t kViolationBytesMax = 3 << 10;

struct FieldViolation {
  std::string field;
  std::string description;
  friend bool operator==(const FieldViolation&, const FieldViolation&) = default;
};

// `status`, which must not be OK, with the violations as a payload: the first ones that fit into kViolationBytesMax.
absl::Status WithViolations(absl::Status status, const std::vector<FieldViolation>& violations);
// Those of a status; none when it carries none, or something that does not parse.
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

}  // namespace vlm::rpc

#endif  // VLM_RPC_BAD_REQUEST_H_
