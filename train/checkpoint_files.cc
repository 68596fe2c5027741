#include "train/checkpoint_files.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/format/parallel_read.h"

namespace vlm::train {
namespace {

class FolderSource final : public TensorSource {
 public:
  explicit FolderSource(const checkpoint::SafetensorsFolder* folder) : folder_(folder) {}

  std::vector<Info> List() const override {
    std::vector<Info> all;
    for (const auto& file : folder_->files()) {
      for (const checkpoint::TensorEntry& tensor : file->header().tensors) {
        all.push_back({tensor.name, std::string(checkpoint::DTypeName(tensor.dtype)),
                       std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end())});
      }
    }
    return all;
  }

  absl::Status Read(const std::string& name, uint64_t offset, std::span<std::byte> out) override {
    return folder_->Read(name, offset, out);
  }

  absl::Status ReadAll(const std::vector<Request>& requests, bool shared) override {
    std::vector<checkpoint::TensorRead> reads;
    for (const Request& request : requests) {
      const auto found = folder_->tensors().find(request.name);
      if (found == folder_->tensors().end()) {
        return absl::NotFoundError(absl::StrCat("folder holds no such tensor: \"", request.name, "\""));
      }
      reads.push_back({found->second.file, found->second.tensor, request.offset, request.out});
    }
    // What every rank of a machine reads comes from its disk once.
    return checkpoint::ReadTensors(reads, {.past_page_cache = !shared});
  }

 private:
  const checkpoint::SafetensorsFolder* const folder_;
};

absl::StatusOr<checkpoint::FileToWrite> ToFileToWrite(std::shared_ptr<const FileImage> image) {
  checkpoint::FileToWrite file;
  file.name = image->name;
  if (image->is_text()) {
    file.contents = image->text;
    return file;
  }
  file.metadata = {{"format", "pt"}};
  for (const TensorImage& tensor : image->tensors) {
    const std::optional<checkpoint::DType> dtype = checkpoint::DTypeFromName(tensor.dtype);
    if (!dtype.has_value()) {
      return absl::InternalError(absl::StrCat("tensor of unknown type: ", tensor.name, " is ", tensor.dtype));
    }
    file.tensors.push_back({tensor.name, *dtype, std::vector<uint64_t>(tensor.shape.begin(), tensor.shape.end())});
  }
  file.produce_tensor = [image = std::move(image)](const checkpoint::TensorEntry& entry,
                                                   const checkpoint::ByteSink& sink) -> absl::Status {
    for (const TensorImage& tensor : image->tensors) {
      if (tensor.name == entry.name) return sink(tensor.bytes());
    }
    return absl::InternalError(absl::StrCat("tensor asked for that the image does not hold: ", entry.name));
  };
  return file;
}

}  // namespace

absl::StatusOr<std::vector<checkpoint::FileToWrite>> ToFilesToWrite(std::vector<FileImage> images) {
  std::vector<checkpoint::FileToWrite> files;
  for (FileImage& image : images) {
    VLM_ASSIGN_OR_RETURN(checkpoint::FileToWrite file,
                         ToFileToWrite(std::make_shared<const FileImage>(std::move(image))));
    files.push_back(std::move(file));
  }
  return files;
}

uint64_t ImageBytes(const std::vector<FileImage>& images) {
  uint64_t bytes = 0;
  for (const FileImage& image : images) {
    bytes += image.text.size();
    for (const TensorImage& tensor : image.tensors) bytes += tensor.value.nbytes();
  }
  return bytes;
}

std::unique_ptr<TensorSource> NewFolderSource(const checkpoint::SafetensorsFolder* folder) {
  return std::make_unique<FolderSource>(folder);
}

}  // namespace vlm::train
