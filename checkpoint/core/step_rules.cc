#include "checkpoint/core/step_rules.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "checkpoint/core/checkpoint_core.h"

namespace vlm::checkpoint {
namespace {

constexpr size_t kComponentBytesMax = 128;
constexpr size_t kFileDepthMax = 4;
constexpr size_t kRootBytesMax = 2048;
constexpr uint64_t kFileBytesMax = uint64_t{1} << 50;

absl::Status Invalid(std::string_view rule, std::string_view value) {
  return absl::InvalidArgumentError(absl::StrCat(std::string(rule), ": \"", std::string(value), "\""));
}

std::vector<std::string> Components(std::string_view path) {
  return absl::StrSplit(absl::string_view(path.data(), path.size()), '/');
}

// Absolute, without "", "." and "..": the disk is asked later where its links lead.
absl::Status CheckRoot(std::string_view root) {
  if (!root.starts_with('/') || root.size() < 2 || root.size() > kRootBytesMax || root.ends_with('/')) {
    return Invalid("artifacts root must be an absolute path without a slash at its end", root);
  }
  for (const std::string& part : Components(root.substr(1))) {
    if (part.empty() || part == "." || part == ".." || part.find('\0') != std::string::npos) {
      return Invalid("artifacts root must have no empty part, \".\" or \"..\"", root);
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool IsPathComponent(std::string_view name) {
  if (name.empty() || name.size() > kComponentBytesMax || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return (c < 128 && std::isalnum(c) != 0) || c == '-' || c == '_' || c == '.';
  });
}

bool IsStepFileName(std::string_view name) {
  if (name == "COMMITTED.json" || name.ends_with(".sum") || name.ends_with(".tmp")) return false;
  const std::vector<std::string> parts = Components(name);
  return parts.size() <= kFileDepthMax &&
         std::all_of(parts.begin(), parts.end(), [](const std::string& part) { return IsPathComponent(part); });
}

absl::Status CheckStageUid(std::string_view stage_uid) {
  if (stage_uid.size() == kStageUidBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("stage_uid must have 16 bytes, not ", stage_uid.size()));
}

absl::Status CheckRequest(const v1::OpenAttemptRequest& request) {
  VLM_RETURN_IF_ERROR(CheckStageUid(request.stage_uid()));
  if (request.fence() == 0) return absl::InvalidArgumentError("fence must be at least 1");
  if (!IsPathComponent(request.stage().job_id()))
    return Invalid("job_id must be a plain name", request.stage().job_id());
  if (!IsPathComponent(request.stage().stage())) return Invalid("stage must be a plain name", request.stage().stage());
  return CheckRoot(request.stage().root());
}

absl::Status CheckRequest(const v1::BeginStepRequest& request) {
  VLM_RETURN_IF_ERROR(CheckStageUid(request.stage_uid()));
  if (request.step() == 0) return absl::InvalidArgumentError("step must be at least 1");
  if (request.world() < 1 || request.world() > kWorldMax) {
    return absl::InvalidArgumentError(absl::StrCat("world must be 1 to ", kWorldMax, ", not ", request.world()));
  }
  if (request.parent_step() >= request.step()) {
    return absl::InvalidArgumentError(
        absl::StrCat("parent_step must be below step ", request.step(), ", is ", request.parent_step()));
  }
  if (request.cursor().size() > kCursorBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("cursor has more than ", kCursorBytesMax, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const v1::AddPartRequest& request) {
  VLM_RETURN_IF_ERROR(CheckStageUid(request.stage_uid()));
  return CheckFiles(request.files());
}

absl::Status CheckFiles(const google::protobuf::RepeatedPtrField<v1::StepFile>& files) {
  if (files.size() > kFilesPerPartMax) {
    return absl::InvalidArgumentError(absl::StrCat("a part has at most ", kFilesPerPartMax, " files"));
  }
  std::set<std::string> names;
  for (const v1::StepFile& file : files) {
    if (!IsStepFileName(file.name())) return Invalid("file name must be a plain relative path", file.name());
    if (!names.insert(file.name()).second) return Invalid("file is named twice in one part", file.name());
    if (file.bytes() > kFileBytesMax) return Invalid("file is impossibly large", file.name());
    if (!Digest::FromHex(file.digest()).ok()) return Invalid("digest must be 64 hex digits, of file", file.name());
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const v1::CommitArtifactRequest& request) {
  VLM_RETURN_IF_ERROR(CheckStageUid(request.stage_uid()));
  if (!IsPathComponent(request.kind())) return Invalid("artifact kind must be a plain name", request.kind());
  return absl::OkStatus();
}

bool SameFiles(const google::protobuf::RepeatedPtrField<v1::StepFile>& a,
               const google::protobuf::RepeatedPtrField<v1::StepFile>& b) {
  const auto keys = [](const google::protobuf::RepeatedPtrField<v1::StepFile>& files) {
    std::set<std::string> all;
    for (const v1::StepFile& file : files)
      all.insert(absl::StrCat(file.name(), "\n", file.bytes(), "\n", file.digest()));
    return all;
  };
  return a.size() == b.size() && keys(a) == keys(b);
}

}  // namespace vlm::checkpoint
