// What a request to the checkpoint service must look like, before any state is consulted.
#ifndef VLM_CHECKPOINT_CORE_STEP_RULES_H_
#define VLM_CHECKPOINT_CORE_STEP_RULES_H_

#include <string_view>

#include "base/status.h"
#include "vlm/v1/checkpoint.pb.h"

namespace vlm::checkpoint {

// All: INVALID_ARGUMENT naming the field and the rule.
absl::Status CheckStageUid(std::string_view stage_uid);  // 16 bytes
absl::Status CheckRequest(const v1::OpenAttemptRequest& request);
absl::Status CheckRequest(const v1::BeginStepRequest& request);
absl::Status CheckRequest(const v1::AddPartRequest& request);
absl::Status CheckRequest(const v1::CommitArtifactRequest& request);
absl::Status CheckFiles(const google::protobuf::RepeatedPtrField<v1::StepFile>& files);  // of one part

// One component of a path: letters, digits, '-', '_', '.', not beginning with '.', 1 to 128 characters.
bool IsPathComponent(std::string_view name);
// Components joined by '/', at most 4 deep: a file inside a step's folder. Names the service and the writers use
// themselves (COMMITTED.json, *.sum, *.tmp) are refused.
bool IsStepFileName(std::string_view name);

// The same files, whatever their order.
bool SameFiles(const google::protobuf::RepeatedPtrField<v1::StepFile>& a,
               const google::protobuf::RepeatedPtrField<v1::StepFile>& b);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CORE_STEP_RULES_H_
