#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "data/chat_template.h"
#include "data/indexer.h"
#include "data/manifest.h"
#include "data/tokenizer/tokenizer.h"
#include "trainer/exit_code.h"
#include "trainer/pool.h"
#include "trainer/stages/pool_stages.h"

namespace vlm::trainer {
namespace {

constexpr uint64_t kPartBytesMax = uint64_t{4} << 30;

// Shard i indexes files i, i + shards, ... of all sources; the finish task merges them into the manifest.
class IndexStage final : public PoolStage {
 public:
  static absl::StatusOr<std::unique_ptr<IndexStage>> Create(const StageContext& context) {
    auto stage = std::unique_ptr<IndexStage>(new IndexStage(context));
    VLM_ASSIGN_OR_RETURN(const InputArtifact tokenizer, context.Input(stage->settings_.tokenizer_stage));
    VLM_ASSIGN_OR_RETURN(stage->tokenizer_json_, ReadFile(context.files, tokenizer.folder + "/" + kTokenizerFile,
                                                          data::kTokenizerJsonBytesMax));
    VLM_ASSIGN_OR_RETURN(stage->tokenizer_, data::Tokenizer::FromJson(stage->tokenizer_json_));
    const std::string name = stage->settings_.chat_template == spec::ChatTemplate::kChatml ? "chatml" : "plain";
    VLM_ASSIGN_OR_RETURN(stage->template_, data::NewChatTemplate(name, stage->tokenizer_.get()));
    stage->render_.tokenizer_digest = Sha256Of(stage->tokenizer_json_).Hex();
    stage->render_.chat_template = name;
    stage->render_.context = stage->settings_.context;
    if (const auto& image = stage->settings_.image; image.has_value()) {
      stage->render_.image_size = image->size;
      stage->render_.image_tokens = (image->size / image->patch) * (image->size / image->patch);
    }
    return stage;
  }

  std::string extension() const override { return ".index"; }

  absl::StatusOr<uint64_t> WriteShard(uint32_t shard, const std::string& path, const Advance& advance) override {
    VLM_ASSIGN_OR_RETURN(const std::vector<data::DataFile> files, Files());
    std::vector<data::FileIndex> indexes;
    uint64_t rows = 0;
    for (size_t i = shard; i < files.size(); i += context_.assignment->shards) {
      absl::StatusOr<data::FileIndex> index = data::IndexFile(context_.files, files[i], render_, *template_, advance);
      if (!index.ok()) return WithExitCode(index.status(), ExitCode::kBadData);
      rows += index->samples.size();
      indexes.push_back(*std::move(index));
    }
    VLM_RETURN_IF_ERROR(WriteSynced(context_.files, path, data::EncodeFileIndexes(indexes)));
    return rows;
  }

  absl::StatusOr<std::vector<ArtifactFile>> Finish(const std::vector<ShardOutput>& winners,
                                                   const Advance& advance) override {
    std::vector<data::FileIndex> indexes;
    for (const ShardOutput& winner : winners) {
      VLM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(context_.files, winner.file, kPartBytesMax));
      VLM_ASSIGN_OR_RETURN(std::vector<data::FileIndex> part, data::DecodeFileIndexes(bytes));
      std::move(part.begin(), part.end(), std::back_inserter(indexes));
      advance();
    }
    std::vector<std::string> sources;
    for (const spec::IndexSource& source : settings_.sources) sources.push_back(source.name);
    const data::Manifest manifest = data::MergeIndexes(render_, sources, std::move(indexes));
    for (const data::Rejected& one : manifest.rejected) {
      std::fprintf(stderr, "rejected %s:%llu: %s\n", one.file.c_str(), static_cast<unsigned long long>(one.line),
                   one.reason.c_str());
    }
    for (const data::ManifestSource& source : manifest.sources) {
      if (source.samples == 0) {
        return WithExitCode(
            absl::InvalidArgumentError(absl::StrCat("no sample of the source is usable (", manifest.rejected_count,
                                                    " rejected, see the log): ", source.name)),
            ExitCode::kBadData);
      }
    }
    data::ManifestBytes bytes = data::EncodeManifest(manifest);
    return std::vector<ArtifactFile>{{data::kManifestFile, std::move(bytes.json)},
                                     {data::kSamplesFile, std::move(bytes.samples)},
                                     {data::kImagesFile, std::move(bytes.images)},
                                     {kTokenizerFile, tokenizer_json_}};
  }

 private:
  explicit IndexStage(const StageContext& context) : context_(context), settings_(context.stage->index()) {}

  // The same list, in the same order, for every shard of every attempt.
  absl::StatusOr<std::vector<data::DataFile>> Files() const {
    std::vector<data::DataFile> found;
    for (const spec::IndexSource& source : settings_.sources) {
      std::vector<std::string> files;
      if (source.from.stage.empty()) {
        VLM_ASSIGN_OR_RETURN(files, context_.DataFiles(source.from.glob));
      } else {
        VLM_ASSIGN_OR_RETURN(const InputArtifact input, context_.Input(source.from.stage));
        VLM_ASSIGN_OR_RETURN(files, GeneratedFiles(context_.files, input, source.from.split));
      }
      for (const std::string& file : files) found.push_back({file, source.name, found.size()});
    }
    return found;
  }

  const StageContext& context_;
  const spec::IndexSettings& settings_;
  data::RenderSettings render_;
  std::string tokenizer_json_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::unique_ptr<data::ChatTemplate> template_;
};

}  // namespace

absl::Status RunIndex(const StageContext& context) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<IndexStage> stage, IndexStage::Create(context));
  return RunPool(context, stage.get());
}

}  // namespace vlm::trainer
