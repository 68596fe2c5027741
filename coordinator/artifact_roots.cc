#include "coordinator/artifact_roots.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/entropy.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kNonceBytes = 32;

bool IsAtOrBeneath(const std::string& path, const std::string& root) {
  return path == root || root == "/" || path.starts_with(root + "/");
}

}  // namespace

ArtifactRoots::ArtifactRoots(FileSystem* files, std::vector<std::string> allowed, std::string store_uuid)
    : files_(files), allowed_(std::move(allowed)), store_uuid_(std::move(store_uuid)) {}

absl::Status ArtifactRoots::CheckText(const std::string& folder) const {
  bool plain = folder.starts_with("/");
  for (const absl::string_view part : absl::StrSplit(folder.substr(plain ? 1 : 0), '/')) {
    plain = plain && !part.empty() && part != "." && part != "..";
  }
  for (const std::string& root : allowed_) {
    if (plain && IsAtOrBeneath(folder, root)) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("artifacts must lie beneath an allowed root of this service (", absl::StrJoin(allowed_, ", "),
                   "); choose such a folder or start the coordinator with --artifact-root: ", folder));
}

// `root` need not exist yet: its nearest parent that does stands for it.
absl::Status ArtifactRoots::CheckReal(const std::string& root) const {
  VLM_RETURN_IF_ERROR(CheckText(root));
  std::string existing = root;
  while (existing != "/" && !files_->Stat(existing).ok()) existing = ParentPath(existing);
  VLM_ASSIGN_OR_RETURN(const std::string real, files_->Canonical(existing));
  for (const std::string& allowed : allowed_) {
    const absl::StatusOr<std::string> real_allowed = files_->Canonical(allowed);
    if (real_allowed.ok() && IsAtOrBeneath(real, *real_allowed)) return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      absl::StrCat("artifacts root leaves the allowed roots through a symbolic link: ", root, " is ", real));
}

absl::StatusOr<ArtifactRoots::Nonce> ArtifactRoots::WriteNonce(const std::string& root) const {
  VLM_RETURN_IF_ERROR(CheckReal(root));
  VLM_RETURN_IF_ERROR(MakeDirectories(files_, root));
  Nonce nonce{absl::StrCat(".vlm-nonce-", store_uuid_), RandomBytes(kNonceBytes)};
  VLM_RETURN_IF_ERROR(WriteFileDurably(files_, absl::StrCat(root, "/", nonce.file), nonce.bytes));
  return nonce;
}

}  // namespace vlm::coordinator
