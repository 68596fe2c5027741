#include "checkpoint/client/carried_files.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace vlm::checkpoint {
namespace {

// False: not linked, and nothing of the file is left in the folder.
absl::StatusOr<bool> LinkWithSums(FileSystem* files, const std::string& from, const std::string& to) {
  const std::string sums = SumPath(to);
  if (!files->Link(SumPath(from), sums).ok()) return false;
  if (files->Link(from, to).ok()) return true;
  VLM_RETURN_IF_ERROR(files->Remove(sums));
  return false;
}

}  // namespace

void CarriedFiles::Remember(const std::string& folder, std::span<const FileClaim> written,
                            std::span<const std::string> names) {
  MutexLock lock(&mutex_);
  for (const FileClaim& claim : written) {
    if (std::binary_search(names.begin(), names.end(), claim.name)) known_[claim.name] = {folder, claim};
  }
}

absl::StatusOr<std::vector<FileClaim>> CarriedFiles::LinkInto(FileSystem* files, const std::string& folder) {
  std::map<std::string, Source> known;
  {
    MutexLock lock(&mutex_);
    known = known_;
  }
  std::vector<FileClaim> linked;
  for (const auto& [name, source] : known) {
    VLM_ASSIGN_OR_RETURN(const bool stands,
                         LinkWithSums(files, absl::StrCat(source.folder, "/", name), absl::StrCat(folder, "/", name)));
    if (stands) {
      linked.push_back(source.claim);
    } else {
      Forget(name, source.folder);
    }
  }
  if (!linked.empty()) VLM_RETURN_IF_ERROR(files->SyncDirectory(folder));
  return linked;
}

void CarriedFiles::Forget(const std::string& name, const std::string& folder) {
  MutexLock lock(&mutex_);
  const auto known = known_.find(name);
  if (known != known_.end() && known->second.folder == folder) known_.erase(known);
}

}  // namespace vlm::checkpoint
