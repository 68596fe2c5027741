#include "base/hooked_file_system.h"

#include <utility>

namespace vlm {
namespace {

class HookedWritableFile final : public WritableFile {
 public:
  HookedWritableFile(std::unique_ptr<WritableFile> file, std::string path, const FileHook* hook)
      : file_(std::move(file)), path_(std::move(path)), hook_(*hook) {}

  absl::Status Append(std::span<const std::byte> bytes) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kAppend, path_));
    return file_->Append(bytes);
  }
  absl::Status Reserve(uint64_t bytes) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kReserve, path_));
    return file_->Reserve(bytes);
  }
  absl::Status Sync() override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kSync, path_));
    return file_->Sync();
  }
  absl::Status Close() override { return file_->Close(); }

 private:
  const std::unique_ptr<WritableFile> file_;
  const std::string path_;
  const FileHook& hook_;
};

class HookedReadableFile final : public ReadableFile {
 public:
  HookedReadableFile(std::unique_ptr<ReadableFile> file, std::string path, const FileHook* hook)
      : file_(std::move(file)), path_(std::move(path)), hook_(*hook) {}

  uint64_t size() const override { return file_->size(); }
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kRead, path_));
    return file_->ReadAt(offset, out);
  }
  void DropCache() const override { file_->DropCache(); }

 private:
  const std::unique_ptr<ReadableFile> file_;
  const std::string path_;
  const FileHook& hook_;
};

class HookedFiles final : public FileSystem {
 public:
  HookedFiles(FileSystem* files, FileHook hook) : files_(files), hook_(std::move(hook)) {}

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kCreate, path));
    VLM_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files_->Create(path));
    return std::make_unique<HookedWritableFile>(std::move(file), path, &hook_);
  }
  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kOpen, path));
    VLM_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, files_->Open(path));
    return std::make_unique<HookedReadableFile>(std::move(file), path, &hook_);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kRename, from));
    return files_->Rename(from, to);
  }
  absl::Status Link(const std::string& from, const std::string& to) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kLink, to));
    return files_->Link(from, to);
  }
  absl::Status Remove(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kRemove, path));
    return files_->Remove(path);
  }
  absl::Status RemoveDirectory(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kRemoveDirectory, path));
    return files_->RemoveDirectory(path);
  }
  absl::Status MakeDirectory(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kMakeDirectory, path));
    return files_->MakeDirectory(path);
  }
  absl::Status SyncDirectory(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kSyncDirectory, path));
    return files_->SyncDirectory(path);
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kList, path));
    return files_->List(path);
  }
  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    VLM_RETURN_IF_ERROR(hook_(FileOperation::kStat, path));
    return files_->Stat(path);
  }
  absl::StatusOr<std::string> Canonical(const std::string& path) override { return files_->Canonical(path); }
  absl::StatusOr<uint64_t> FreeBytes(const std::string& path) override { return files_->FreeBytes(path); }

 private:
  FileSystem* const files_;
  const FileHook hook_;
};

}  // namespace

std::unique_ptr<FileSystem> NewHookedFileSystem(FileSystem* files, FileHook hook) {
  return std::make_unique<HookedFiles>(files, std::move(hook));
}

}  // namespace vlm
