#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "data/shapes/shapes_generator.h"
#include "trainer/pool.h"
#include "trainer/stages/pool_stages.h"

namespace vlm::trainer {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kListBytesMax = 64 << 20;

data::PictureEncoding EncodingOf(spec::PictureFormat format) {
  switch (format) {
    case spec::PictureFormat::kJpeg:
      return data::PictureEncoding::kJpeg;
    case spec::PictureFormat::kPng:
      return data::PictureEncoding::kPng;
    case spec::PictureFormat::kMixed:
      return data::PictureEncoding::kMixed;
  }
  return data::PictureEncoding::kMixed;
}

// A shard's place in its split.
struct ShardRange {
  std::string split;
  uint64_t first = 0, count = 0;
};

std::vector<ShardRange> RangesOf(const spec::GenerateSettings& settings) {
  std::vector<ShardRange> ranges;
  for (const spec::GenerateSplit& split : settings.splits) {
    for (int64_t first = 0; first < split.samples; first += settings.shard_samples) {
      ranges.push_back({split.name, static_cast<uint64_t>(first),
                        static_cast<uint64_t>(std::min(settings.shard_samples, split.samples - first))});
    }
  }
  return ranges;
}

// Every write is progress: a sample is written as soon as it is drawn.
class AdvancingFile final : public WritableFile {
 public:
  AdvancingFile(WritableFile* file, const Advance& advance) : file_(file), advance_(advance) {}
  absl::Status Append(std::span<const std::byte> bytes) override {
    advance_();
    return file_->Append(bytes);
  }
  absl::Status Reserve(uint64_t bytes) override { return file_->Reserve(bytes); }
  absl::Status Sync() override { return file_->Sync(); }
  absl::Status Close() override { return file_->Close(); }

 private:
  WritableFile* const file_;
  const Advance& advance_;
};

class GenerateStage final : public PoolStage {
 public:
  GenerateStage(const StageContext& context, std::unique_ptr<data::ShapesGenerator> generator)
      : context_(context), generator_(std::move(generator)), ranges_(RangesOf(context.stage->generate())) {}

  std::string extension() const override { return ".tar"; }

  absl::StatusOr<uint64_t> WriteShard(uint32_t shard, const std::string& path, const Advance& advance) override {
    const ShardRange& range = ranges_[shard];
    VLM_ASSIGN_OR_RETURN(const data::ShapesSplit split, data::ParseShapesSplit(range.split));
    VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, context_.files->Create(path));
    AdvancingFile advancing(file.get(), advance);
    VLM_RETURN_IF_ERROR(data::WriteShapesShard(*generator_, split, range.first, range.count, &advancing));
    VLM_RETURN_IF_ERROR(file->Sync());
    VLM_RETURN_IF_ERROR(file->Close());
    return range.count;
  }

  absl::StatusOr<std::vector<ArtifactFile>> Finish(const std::vector<ShardOutput>& winners, const Advance&) override {
    Json files = Json::array();
    for (size_t shard = 0; shard < winners.size(); ++shard) {
      files.push_back({{"path", winners[shard].file},
                       {"split", ranges_[shard].split},
                       {"samples", winners[shard].rows},
                       {"bytes", winners[shard].bytes},
                       {"digest", winners[shard].digest}});
    }
    const Json json = {{"format", "vlm-generated"}, {"version", 1}, {"files", files}};
    return std::vector<ArtifactFile>{{kGeneratedFile, json.dump(1) + "\n"}};
  }

 private:
  const StageContext& context_;
  const std::unique_ptr<data::ShapesGenerator> generator_;
  const std::vector<ShardRange> ranges_;
};

}  // namespace

absl::Status RunGenerate(const StageContext& context) {
  const spec::GenerateSettings& settings = context.stage->generate();
  VLM_ASSIGN_OR_RETURN(std::unique_ptr<data::ShapesGenerator> generator,
                       data::ShapesGenerator::Create({.seed = context.stage->seed,
                                                      .min_size = settings.image.min_size,
                                                      .max_size = settings.image.max_size,
                                                      .encoding = EncodingOf(settings.image.format)}));
  GenerateStage stage(context, std::move(generator));
  return RunPool(context, &stage);
}

absl::StatusOr<std::vector<std::string>> GeneratedFiles(FileSystem* files, const InputArtifact& artifact,
                                                        const std::string& split) {
  const std::string path = artifact.folder + "/" + kGeneratedFile;
  VLM_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, path, kListBytesMax));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("format", "") != "vlm-generated" || json.value("version", 0) != 1) {
    return absl::DataLossError("list of generated shards does not parse: " + path);
  }
  std::vector<std::string> found;
  for (const Json& file : json["files"]) {
    if (file.value("split", "") == split) found.push_back(file.value("path", ""));
  }
  if (found.empty()) return absl::NotFoundError(absl::StrCat("stage ", artifact.stage, " generated no split: ", split));
  return found;
}

absl::Status WriteSynced(FileSystem* files, const std::string& path, std::string_view contents) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files->Create(path));
  VLM_RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(contents.data(), contents.size()))));
  VLM_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace vlm::trainer
