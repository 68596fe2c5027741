#include "store/simulated_meta_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace vlm::store {
namespace {

using Families = std::map<std::string, std::map<std::string, std::string>>;

absl::Status UnknownFamily(std::string_view family) {
  return absl::InvalidArgumentError(
      absl::StrCat("store was opened without this family; add it to the list given on open: ", std::string(family)));
}

void Apply(const std::vector<Mutation>& mutations, Families* families) {
  for (const Mutation& mutation : mutations) {
    std::map<std::string, std::string>& rows = (*families)[mutation.family];
    if (mutation.value.has_value()) {
      rows[mutation.key] = *mutation.value;
    } else {
      rows.erase(mutation.key);
    }
  }
}

uint64_t BytesOf(const Families& families) {
  uint64_t bytes = 0;
  for (const auto& [family, rows] : families) {
    for (const auto& [key, value] : rows) bytes += key.size() + value.size();
  }
  return bytes;
}

}  // namespace

SimulatedMetaStore::SimulatedMetaStore(std::vector<std::string> families) {
  MutexLock lock(&mutex_);
  for (std::string& family : families) visible_[std::move(family)];
  durable_ = visible_;
}

absl::Status SimulatedMetaStore::CheckOpen() const { return failure_; }

absl::Status SimulatedMetaStore::Commit(const std::vector<Mutation>& mutations, Durability durability) {
  MutexLock lock(&mutex_);
  VLM_RETURN_IF_ERROR(CheckOpen());
  for (const Mutation& mutation : mutations) {
    if (!visible_.contains(mutation.family)) return UnknownFamily(mutation.family);
  }
  if (commits_ >= stop_after_) {
    failure_ = absl::AbortedError("the simulated machine has stopped; call Crash()");
    return failure_;
  }
  if (capacity_bytes_ != UINT64_MAX) {
    Families after = visible_;
    Apply(mutations, &after);
    if (BytesOf(after) > capacity_bytes_) {
      failure_ = absl::ResourceExhaustedError("no space left on the simulated disk of the store");
      return failure_;
    }
  }
  ++commits_;
  Apply(mutations, &visible_);
  unsynced_.push_back(mutations);
  if (durability == Durability::kSynced) {
    for (const std::vector<Mutation>& earlier : unsynced_) Apply(earlier, &durable_);
    unsynced_.clear();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<std::string>> SimulatedMetaStore::Get(std::string_view family,
                                                                   std::string_view key) const {
  MutexLock lock(&mutex_);
  VLM_RETURN_IF_ERROR(CheckOpen());
  const auto rows = visible_.find(std::string(family));
  if (rows == visible_.end()) return UnknownFamily(family);
  const auto row = rows->second.find(std::string(key));
  if (row == rows->second.end()) return std::optional<std::string>();
  return std::optional<std::string>(row->second);
}

absl::Status SimulatedMetaStore::ScanFrom(std::string_view family, std::string_view prefix, std::string_view first,
                                          const Visitor& visitor) const {
  std::map<std::string, std::string> snapshot;
  {
    MutexLock lock(&mutex_);
    VLM_RETURN_IF_ERROR(CheckOpen());
    const auto rows = visible_.find(std::string(family));
    if (rows == visible_.end()) return UnknownFamily(family);
    snapshot = rows->second;
  }
  for (auto row = snapshot.lower_bound(std::string(std::max(prefix, first))); row != snapshot.end(); ++row) {
    if (!row->first.starts_with(prefix) || !visitor(row->first, row->second)) break;
  }
  return absl::OkStatus();
}

void SimulatedMetaStore::Crash(uint64_t unsynced_kept) {
  MutexLock lock(&mutex_);
  const size_t kept = static_cast<size_t>(std::min<uint64_t>(unsynced_kept, unsynced_.size()));
  for (size_t i = 0; i < kept; ++i) Apply(unsynced_[i], &durable_);
  unsynced_.clear();
  visible_ = durable_;
  stop_after_ = UINT64_MAX;
  failure_ = absl::OkStatus();
}

uint64_t SimulatedMetaStore::unsynced() const {
  MutexLock lock(&mutex_);
  return unsynced_.size();
}

void SimulatedMetaStore::SetCapacity(uint64_t bytes) {
  MutexLock lock(&mutex_);
  capacity_bytes_ = bytes;
}

void SimulatedMetaStore::StopAfter(uint64_t commits) {
  MutexLock lock(&mutex_);
  stop_after_ = commits_ + commits;
}

uint64_t SimulatedMetaStore::commits() const {
  MutexLock lock(&mutex_);
  return commits_;
}

}  // namespace vlm::store
