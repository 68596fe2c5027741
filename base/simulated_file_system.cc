#include "base/simulated_file_system.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"

namespace vlm {
namespace {

// A file or a folder. Folders know two versions of their names: what programs see and what the disk holds.
struct Node {
  bool is_directory = false;
  std::string bytes;
  uint64_t durable_bytes = 0;  // a prefix of `bytes`: files only grow
  bool sync_failed = false;    // the kernel forgot the dirty pages: no later Sync brings them back
  uint64_t reserved = 0;
  std::map<std::string, std::shared_ptr<Node>> names;
  std::map<std::string, std::shared_ptr<Node>> durable_names;
};
using NodePtr = std::shared_ptr<Node>;

// One change of a folder's names; `node` null removes.
struct NameChange {
  NodePtr folder;
  std::string name;
  NodePtr node;
};
// Survives whole or not at all: names, or the bytes of one file up to a size.
struct AtomicChange {
  std::vector<NameChange> names;
  NodePtr appended = nullptr;
  uint64_t bytes = 0;
};

void Apply(const AtomicChange& change, bool durable) {
  if (change.appended != nullptr && durable && !change.appended->sync_failed) {
    change.appended->durable_bytes = std::max(change.appended->durable_bytes, change.bytes);
  }
  for (const NameChange& part : change.names) {
    auto& names = durable ? part.folder->durable_names : part.folder->names;
    if (part.node == nullptr) {
      names.erase(part.name);
    } else {
      names[part.name] = part.node;
    }
  }
}

std::vector<std::string> SplitPath(const std::string& path) {
  std::vector<std::string> parts;
  std::string part;
  for (const char c : path + "/") {
    if (c != '/') {
      part += c;
      continue;
    }
    if (part == ".." && !parts.empty()) parts.pop_back();
    if (!part.empty() && part != "." && part != "..") parts.push_back(part);
    part.clear();
  }
  return parts;
}

uint64_t RoomOf(const Node& node) { return std::max<uint64_t>(node.bytes.size(), node.reserved); }

// The same node in a copy of the disk: hard links stay one file.
NodePtr CopyNode(const NodePtr& node, std::map<const Node*, NodePtr>* copies) {
  if (node == nullptr) return nullptr;
  if (const auto found = copies->find(node.get()); found != copies->end()) return found->second;
  const NodePtr copy = std::make_shared<Node>(*node);
  copies->emplace(node.get(), copy);
  for (auto* const names : {&copy->names, &copy->durable_names}) {
    for (auto& [name, child] : *names) child = CopyNode(child, copies);
  }
  return copy;
}

void CollectNodes(const NodePtr& node, std::set<const Node*>* seen) {
  if (!seen->insert(node.get()).second) return;
  for (const auto& [name, child] : node->names) CollectNodes(child, seen);
}

}  // namespace

struct SimulatedFileSystem::Disk {
  Mutex mutex;
  NodePtr root ABSL_GUARDED_BY(mutex) = std::make_shared<Node>();
  std::vector<AtomicChange> pending ABSL_GUARDED_BY(mutex);  // what is not synced, in order
  uint64_t capacity ABSL_GUARDED_BY(mutex) = uint64_t{1} << 40;
  uint64_t operations ABSL_GUARDED_BY(mutex) = 0;
  uint64_t stop_after ABSL_GUARDED_BY(mutex) = UINT64_MAX;
  uint64_t boots ABSL_GUARDED_BY(mutex) = 0;
  Rng rng ABSL_GUARDED_BY(mutex);
  FileHook hook;  // set before use

  explicit Disk(RngKey seed) : rng(seed) { root->is_directory = true; }

  absl::Status Ask(FileOperation operation, const std::string& path) const {
    return hook ? hook(operation, path) : absl::OkStatus();
  }

  // Counts a changing operation; ABORTED once the simulated machine has stopped.
  absl::Status Change() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (operations >= stop_after) return absl::AbortedError("the simulated machine has stopped; call Crash()");
    ++operations;
    return absl::OkStatus();
  }

  NodePtr Find(const std::string& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    NodePtr node = root;
    for (const std::string& part : SplitPath(path)) {
      const auto found = node->names.find(part);
      if (found == node->names.end()) return nullptr;
      node = found->second;
    }
    return node;
  }

  // The folder that holds `path` and the last name; NOT_FOUND when the folder is missing.
  absl::StatusOr<std::pair<NodePtr, std::string>> FindParent(const std::string& path)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::vector<std::string> parts = SplitPath(path);
    if (parts.empty()) return absl::InvalidArgumentError(absl::StrCat("path names no entry: ", path));
    NodePtr node = root;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = node->names.find(parts[i]);
      if (found == node->names.end() || !found->second->is_directory) {
        return absl::NotFoundError(absl::StrCat("no such folder above ", path));
      }
      node = found->second;
    }
    return std::make_pair(node, parts.back());
  }

  void ChangeNames(std::vector<NameChange> names) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    AtomicChange change{.names = std::move(names)};
    Apply(change, /*durable=*/false);
    pending.push_back(std::move(change));
  }

  // A sync took these to the disk.
  template <typename Touches>
  void MakeDurable(const Touches& touches) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::vector<AtomicChange> rest;
    for (AtomicChange& change : pending) {
      if (touches(change)) {
        Apply(change, /*durable=*/true);
      } else {
        rest.push_back(std::move(change));
      }
    }
    pending = std::move(rest);
  }

  uint64_t UsedBytes() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::set<const Node*> nodes;
    CollectNodes(root, &nodes);
    uint64_t used = 0;
    for (const Node* node : nodes) used += RoomOf(*node);
    return used;
  }
};

namespace {

using Disk = SimulatedFileSystem::Disk;

class SimulatedWritableFile final : public WritableFile {
 public:
  SimulatedWritableFile(std::shared_ptr<Disk> disk, NodePtr node, std::string path, uint64_t boot)
      : disk_(std::move(disk)), node_(std::move(node)), path_(std::move(path)), boot_(boot) {}

  absl::Status Append(std::span<const std::byte> bytes) override {
    VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kAppend, path_));
    MutexLock lock(&disk_->mutex);
    VLM_RETURN_IF_ERROR(Begin());
    const uint64_t size = node_->bytes.size() + bytes.size();
    const uint64_t more = size - std::min(size, RoomOf(*node_));
    const uint64_t used = disk_->UsedBytes();
    const uint64_t room = disk_->capacity - std::min(disk_->capacity, used);
    // A full disk takes what still fits, as write(2) does.
    const uint64_t taken = more > room ? bytes.size() - (more - room) : bytes.size();
    node_->bytes.append(reinterpret_cast<const char*>(bytes.data()), taken);
    disk_->pending.push_back({.names = {}, .appended = node_, .bytes = node_->bytes.size()});
    if (taken < bytes.size()) {
      return absl::ResourceExhaustedError(absl::StrCat("write ", path_, ": no space left on the simulated disk"));
    }
    return absl::OkStatus();
  }

  absl::Status Reserve(uint64_t bytes) override {
    VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kReserve, path_));
    MutexLock lock(&disk_->mutex);
    VLM_RETURN_IF_ERROR(Begin());
    const uint64_t more = bytes - std::min(bytes, RoomOf(*node_));
    if (more > disk_->capacity - std::min(disk_->capacity, disk_->UsedBytes())) {
      return absl::ResourceExhaustedError(
          absl::StrCat("reserve space for ", path_, ": no space left on the simulated disk"));
    }
    node_->reserved = std::max(node_->reserved, bytes);
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    const absl::Status asked = disk_->Ask(FileOperation::kSync, path_);
    MutexLock lock(&disk_->mutex);
    if (!asked.ok()) {
      node_->sync_failed = true;
      return asked;
    }
    VLM_RETURN_IF_ERROR(Begin());
    disk_->MakeDurable([this](const AtomicChange& change) { return change.appended == node_; });
    return absl::OkStatus();
  }

  absl::Status Close() override { return absl::OkStatus(); }

 private:
  absl::Status Begin() ABSL_EXCLUSIVE_LOCKS_REQUIRED(disk_->mutex) {
    if (disk_->boots != boot_)
      return absl::AbortedError(absl::StrCat("file was open when the machine stopped: ", path_));
    return disk_->Change();
  }

  const std::shared_ptr<Disk> disk_;
  const NodePtr node_;
  const std::string path_;
  const uint64_t boot_;
};

class SimulatedReadableFile final : public ReadableFile {
 public:
  SimulatedReadableFile(std::shared_ptr<Disk> disk, NodePtr node, std::string path, uint64_t size)
      : disk_(std::move(disk)), node_(std::move(node)), path_(std::move(path)), size_(size) {}

  uint64_t size() const override { return size_; }

  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kRead, path_));
    MutexLock lock(&disk_->mutex);
    if (offset + out.size() > node_->bytes.size()) {
      return absl::OutOfRangeError(absl::StrCat("read past the end of ", path_));
    }
    std::copy_n(reinterpret_cast<const std::byte*>(node_->bytes.data()) + offset, out.size(), out.begin());
    return absl::OkStatus();
  }

  void DropCache() const override {}

 private:
  const std::shared_ptr<Disk> disk_;
  const NodePtr node_;
  const std::string path_;
  const uint64_t size_;
};

// What the disk still holds of a file after a crash.
void LoseBytes(Node* node, SimulatedFileSystem::Survival survival, Rng* rng) {
  const uint64_t unsynced = node->bytes.size() - node->durable_bytes;
  if (unsynced > 0) {
    uint64_t kept = 0;
    if (survival == SimulatedFileSystem::Survival::kRandom) {
      kept = rng->Below(unsynced + 1);
      // The length may reach the disk before the bytes do.
      const uint64_t written = rng->Below(kept + 1);
      std::fill_n(node->bytes.begin() + static_cast<ptrdiff_t>(node->durable_bytes + written), kept - written, '\0');
    }
    node->bytes.resize(node->durable_bytes + kept);
  }
  node->durable_bytes = node->bytes.size();
  node->sync_failed = false;
  node->reserved = 0;
}

void Recover(const NodePtr& node, SimulatedFileSystem::Survival survival, Rng* rng, std::set<const Node*>* seen) {
  if (!seen->insert(node.get()).second) return;
  if (!node->is_directory) {
    LoseBytes(node.get(), survival, rng);
    return;
  }
  node->names = node->durable_names;
  for (const auto& [name, child] : node->names) Recover(child, survival, rng, seen);
}

uint64_t CountLinks(const NodePtr& folder, const Node* target) {
  uint64_t links = 0;
  for (const auto& [name, child] : folder->names) {
    if (child.get() == target) ++links;
    if (child->is_directory) links += CountLinks(child, target);
  }
  return links;
}

}  // namespace

SimulatedFileSystem::SimulatedFileSystem(RngKey seed) : disk_(std::make_shared<Disk>(seed)) {}
SimulatedFileSystem::SimulatedFileSystem(std::shared_ptr<Disk> disk) : disk_(std::move(disk)) {}
SimulatedFileSystem::~SimulatedFileSystem() = default;

absl::StatusOr<std::unique_ptr<WritableFile>> SimulatedFileSystem::Create(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kCreate, path));
  MutexLock lock(&disk_->mutex);
  VLM_ASSIGN_OR_RETURN(const auto place, disk_->FindParent(path));
  if (place.first->names.contains(place.second)) return absl::AlreadyExistsError(absl::StrCat("create ", path));
  VLM_RETURN_IF_ERROR(disk_->Change());
  NodePtr node = std::make_shared<Node>();
  disk_->ChangeNames({{place.first, place.second, node}});
  return std::make_unique<SimulatedWritableFile>(disk_, std::move(node), path, disk_->boots);
}

absl::StatusOr<std::unique_ptr<ReadableFile>> SimulatedFileSystem::Open(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kOpen, path));
  MutexLock lock(&disk_->mutex);
  NodePtr node = disk_->Find(path);
  if (node == nullptr) return absl::NotFoundError(absl::StrCat("open ", path));
  if (node->is_directory) return absl::InternalError(absl::StrCat("open ", path, ": is a folder"));
  const uint64_t size = node->bytes.size();
  return std::make_unique<SimulatedReadableFile>(disk_, std::move(node), path, size);
}

absl::Status SimulatedFileSystem::Rename(const std::string& from, const std::string& to) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kRename, from));
  MutexLock lock(&disk_->mutex);
  VLM_ASSIGN_OR_RETURN(const auto source, disk_->FindParent(from));
  VLM_ASSIGN_OR_RETURN(const auto target, disk_->FindParent(to));
  const auto found = source.first->names.find(source.second);
  if (found == source.first->names.end()) return absl::NotFoundError(absl::StrCat("rename ", from));
  const NodePtr moved = found->second;
  const auto old = target.first->names.find(target.second);
  if (old != target.first->names.end() && (old->second->is_directory || moved->is_directory)) {
    return absl::InternalError(absl::StrCat("rename to ", to, ": a folder is in the way"));
  }
  VLM_RETURN_IF_ERROR(disk_->Change());
  disk_->ChangeNames({{source.first, source.second, nullptr}, {target.first, target.second, moved}});
  return absl::OkStatus();
}

absl::Status SimulatedFileSystem::Link(const std::string& from, const std::string& to) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kLink, to));
  MutexLock lock(&disk_->mutex);
  const NodePtr node = disk_->Find(from);
  if (node == nullptr) return absl::NotFoundError(absl::StrCat("link ", from));
  if (node->is_directory) return absl::PermissionDeniedError(absl::StrCat("link of a folder: ", from));
  VLM_ASSIGN_OR_RETURN(const auto place, disk_->FindParent(to));
  if (place.first->names.contains(place.second)) return absl::AlreadyExistsError(absl::StrCat("link as ", to));
  VLM_RETURN_IF_ERROR(disk_->Change());
  disk_->ChangeNames({{place.first, place.second, node}});
  return absl::OkStatus();
}

absl::Status SimulatedFileSystem::Remove(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kRemove, path));
  MutexLock lock(&disk_->mutex);
  VLM_ASSIGN_OR_RETURN(const auto place, disk_->FindParent(path));
  const auto found = place.first->names.find(place.second);
  if (found == place.first->names.end()) return absl::NotFoundError(absl::StrCat("remove ", path));
  if (found->second->is_directory) return absl::InternalError(absl::StrCat("remove ", path, ": is a folder"));
  VLM_RETURN_IF_ERROR(disk_->Change());
  disk_->ChangeNames({{place.first, place.second, nullptr}});
  return absl::OkStatus();
}

absl::Status SimulatedFileSystem::RemoveDirectory(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kRemoveDirectory, path));
  MutexLock lock(&disk_->mutex);
  VLM_ASSIGN_OR_RETURN(const auto place, disk_->FindParent(path));
  const auto found = place.first->names.find(place.second);
  if (found == place.first->names.end()) return absl::NotFoundError(absl::StrCat("remove folder ", path));
  if (!found->second->is_directory || !found->second->names.empty()) {
    return absl::InternalError(absl::StrCat("remove folder ", path, ": no folder, or not empty"));
  }
  VLM_RETURN_IF_ERROR(disk_->Change());
  disk_->ChangeNames({{place.first, place.second, nullptr}});
  return absl::OkStatus();
}

absl::Status SimulatedFileSystem::MakeDirectory(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kMakeDirectory, path));
  MutexLock lock(&disk_->mutex);
  VLM_ASSIGN_OR_RETURN(const auto place, disk_->FindParent(path));
  if (place.first->names.contains(place.second)) return absl::AlreadyExistsError(absl::StrCat("make folder ", path));
  VLM_RETURN_IF_ERROR(disk_->Change());
  NodePtr node = std::make_shared<Node>();
  node->is_directory = true;
  disk_->ChangeNames({{place.first, place.second, std::move(node)}});
  return absl::OkStatus();
}

absl::Status SimulatedFileSystem::SyncDirectory(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kSyncDirectory, path));
  MutexLock lock(&disk_->mutex);
  const NodePtr folder = disk_->Find(path);
  if (folder == nullptr || !folder->is_directory) return absl::NotFoundError(absl::StrCat("open folder ", path));
  VLM_RETURN_IF_ERROR(disk_->Change());
  disk_->MakeDurable([&](const AtomicChange& change) {
    return std::any_of(change.names.begin(), change.names.end(),
                       [&](const NameChange& part) { return part.folder == folder; });
  });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SimulatedFileSystem::List(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kList, path));
  MutexLock lock(&disk_->mutex);
  const NodePtr folder = disk_->Find(path);
  if (folder == nullptr || !folder->is_directory) return absl::NotFoundError(absl::StrCat("list ", path));
  std::vector<std::string> names;
  for (const auto& [name, child] : folder->names) names.push_back(name);
  return names;
}

absl::StatusOr<FileInfo> SimulatedFileSystem::Stat(const std::string& path) {
  VLM_RETURN_IF_ERROR(disk_->Ask(FileOperation::kStat, path));
  MutexLock lock(&disk_->mutex);
  const NodePtr node = disk_->Find(path);
  if (node == nullptr) return absl::NotFoundError(absl::StrCat("stat ", path));
  return FileInfo{node->bytes.size(), node->is_directory, CountLinks(disk_->root, node.get()), false};
}

absl::StatusOr<std::string> SimulatedFileSystem::Canonical(const std::string& path) {
  MutexLock lock(&disk_->mutex);
  if (disk_->Find(path) == nullptr) return absl::NotFoundError(absl::StrCat("resolve ", path));
  std::string canonical;
  for (const std::string& part : SplitPath(path)) absl::StrAppend(&canonical, "/", part);
  return canonical.empty() ? "/" : canonical;
}

absl::StatusOr<uint64_t> SimulatedFileSystem::FreeBytes(const std::string& path) {
  MutexLock lock(&disk_->mutex);
  if (disk_->Find(path) == nullptr) return absl::NotFoundError(absl::StrCat("stat the disk of ", path));
  return disk_->capacity - std::min(disk_->capacity, disk_->UsedBytes());
}

void SimulatedFileSystem::SetHook(FileHook hook) { disk_->hook = std::move(hook); }

void SimulatedFileSystem::SetCapacity(uint64_t bytes) {
  MutexLock lock(&disk_->mutex);
  disk_->capacity = bytes;
}

void SimulatedFileSystem::StopAfter(uint64_t operations) {
  MutexLock lock(&disk_->mutex);
  disk_->stop_after = disk_->operations + operations;
}

uint64_t SimulatedFileSystem::operations() const {
  MutexLock lock(&disk_->mutex);
  return disk_->operations;
}

uint64_t SimulatedFileSystem::unsynced_operations() const {
  MutexLock lock(&disk_->mutex);
  return disk_->pending.size();
}

std::unique_ptr<SimulatedFileSystem> SimulatedFileSystem::AfterPowerLoss(uint64_t kept) const {
  auto disk = std::make_shared<Disk>(RngKey{});
  {
    MutexLock lock(&disk_->mutex);
    MutexLock copy_lock(&disk->mutex);
    std::map<const Node*, NodePtr> copies;
    disk->root = CopyNode(disk_->root, &copies);
    disk->capacity = disk_->capacity;
    disk->rng = disk_->rng;
    for (const AtomicChange& change : disk_->pending) {
      if (kept-- == 0) break;
      AtomicChange copy{.names = change.names, .appended = CopyNode(change.appended, &copies), .bytes = change.bytes};
      for (NameChange& part : copy.names) {
        part.folder = CopyNode(part.folder, &copies);
        part.node = CopyNode(part.node, &copies);
      }
      Apply(copy, /*durable=*/true);
    }
  }
  std::unique_ptr<SimulatedFileSystem> after(new SimulatedFileSystem(std::move(disk)));
  after->Crash(Survival::kNothing);
  return after;
}

void SimulatedFileSystem::Crash(Survival survival) {
  MutexLock lock(&disk_->mutex);
  for (const AtomicChange& change : disk_->pending) {
    if (change.appended != nullptr) continue;  // bytes are LoseBytes' matter
    if (survival == Survival::kRandom && disk_->rng.Below(2) == 1) Apply(change, /*durable=*/true);
  }
  disk_->pending.clear();
  std::set<const Node*> seen;
  Recover(disk_->root, survival, &disk_->rng, &seen);
  disk_->stop_after = UINT64_MAX;
  ++disk_->boots;
}

absl::Status SimulatedFileSystem::FlipBit(const std::string& path, uint64_t bit) {
  MutexLock lock(&disk_->mutex);
  const NodePtr node = disk_->Find(path);
  if (node == nullptr || node->is_directory) return absl::NotFoundError(absl::StrCat("no such file: ", path));
  if (bit / 8 >= node->bytes.size())
    return absl::OutOfRangeError(absl::StrCat("bit ", bit, " is past the end of ", path));
  node->bytes[bit / 8] ^= static_cast<char>(1 << (bit % 8));
  return absl::OkStatus();
}

}  // namespace vlm
