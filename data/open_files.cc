#include "data/open_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::data {

OpenFiles::OpenFiles(FileSystem* files, const Manifest* manifest, size_t open_max)
    : files_(files), manifest_(manifest), open_max_(std::max<size_t>(1, open_max)) {}

absl::StatusOr<std::shared_ptr<const ReadableFile>> OpenFiles::Get(uint32_t file) {
  if (std::shared_ptr<const ReadableFile> found = Find(file); found != nullptr) return found;
  const ManifestFile& listed = manifest_->files[file];
  VLM_ASSIGN_OR_RETURN(std::shared_ptr<const ReadableFile> opened, files_->Open(listed.path));
  if (opened->size() != listed.bytes) {
    return absl::FailedPreconditionError(absl::StrCat("data file has changed since it was indexed (", listed.bytes,
                                                      " bytes then, ", opened->size(), " now): ", listed.path));
  }
  std::shared_ptr<const ReadableFile> closed;  // after the lock is released
  MutexLock lock(&mutex_);
  if (open_.contains(file)) return opened;  // another thread was faster; this one's is closed after its read
  if (open_.size() == open_max_) {
    closed = std::move(open_.extract(used_.back()).mapped().file);
    used_.pop_back();
  }
  used_.push_front(file);
  open_[file] = {opened, used_.begin()};
  return opened;
}

std::shared_ptr<const ReadableFile> OpenFiles::Find(uint32_t file) {
  MutexLock lock(&mutex_);
  const auto found = open_.find(file);
  if (found == open_.end()) return nullptr;
  used_.splice(used_.begin(), used_, found->second.place);
  return found->second.file;
}

}  // namespace vlm::data
