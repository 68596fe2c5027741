#include "coordinator/store_space.h"

#include <memory>

#include "absl/strings/str_cat.h"

namespace vlm::coordinator {

absl::StatusOr<bool> StoreSpace::Prepare() const {
  const std::string path = absl::StrCat(options_.folder, "/", kBallastFile);
  VLM_ASSIGN_OR_RETURN(const uint64_t free_bytes, files_->FreeBytes(options_.folder));
  if (files_->Stat(path).ok()) {
    if (free_bytes >= options_.floor_bytes && options_.ballast_bytes > 0) return false;
    VLM_RETURN_IF_ERROR(files_->Remove(path));
    return options_.ballast_bytes > 0;
  }
  if (options_.ballast_bytes == 0 || free_bytes < options_.floor_bytes + options_.ballast_bytes) return false;
  const absl::Status made = MakeBallast(path);
  if (made.ok() || absl::IsResourceExhausted(made)) return false;
  return made;
}

absl::Status StoreSpace::MakeBallast(const std::string& path) const {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files_->Create(path));
  absl::Status made = file->Reserve(options_.ballast_bytes);
  if (made.ok()) made = file->Sync();
  const absl::Status closed = file->Close();
  if (made.ok()) made = closed;
  if (!made.ok()) files_->Remove(path).IgnoreError();  // the next start tries again
  return made;
}

absl::Status StoreSpace::CheckFloor() const {
  if (options_.floor_bytes == 0) return absl::OkStatus();
  VLM_ASSIGN_OR_RETURN(const uint64_t free_bytes, files_->FreeBytes(options_.folder));
  if (free_bytes >= options_.floor_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("no new jobs while the coordinator's disk is nearly full; free space on it: ", options_.folder,
                   " has ", free_bytes, " bytes free, ", options_.floor_bytes, " are needed (--free-space-floor)"));
}

}  // namespace vlm::coordinator
