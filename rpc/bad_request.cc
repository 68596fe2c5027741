#include "rpc/bad_request.h"

#include <optional>

#include "absl/strings/cord.h"
#include "vlm/v1/error.pb.h"

namespace vlm::rpc {

absl::Status WithViolations(absl::Status status, const std::vector<FieldViolation>& violations) {
  v1::BadRequest details;
  for (const FieldViolation& violation : violations) {
    v1::BadRequest::FieldViolation* const added = details.add_field_violations();
    added->set_field(violation.field);
    added->set_description(violation.description);
    if (details.ByteSizeLong() <= kViolationBytesMax) continue;
    details.mutable_field_violations()->RemoveLast();
    break;
  }
  status.SetPayload(kBadRequestUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  const auto payload = status.GetPayload(kBadRequestUrl);
  v1::BadRequest details;
  if (!payload.has_value() || !details.ParseFromString(std::string(*payload))) return violations;
  for (const v1::BadRequest::FieldViolation& violation : details.field_violations()) {
    violations.push_back({violation.field(), violation.description()});
  }
  return violations;
}

}  // namespace vlm::rpc
