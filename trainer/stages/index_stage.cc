#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
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
constexpr size_t kQuarantinedLogged = 100;

data::BadPictureRule RuleOf(const spec::IndexSettings& settings) {
  switch (settings.on_bad_picture) {
    case spec::BadPicturePolicy::kFail:
      return {data::BadPicturePolicy::kFail, 0};
    case spec::BadPicturePolicy::kDrop:
      return {data::BadPicturePolicy::kDrop, settings.bad_pictures_max};
    case spec::BadPicturePolicy::kPlaceholder:
      return {data::BadPicturePolicy::kPlaceholder, settings.bad_pictures_max};
  }
  return {};
}

// One is enough with the policy fail: the rest of the data need not be read to know it.
absl::Status CheckNone(const data::FileIndex& index) {
  if (index.bad_pictures == 0) return absl::OkStatus();
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                          "pictures do not decode; replace them, or set data.on_bad_picture to drop or placeholder (",
                          index.bad_pictures, " of ", index.pictures, " in this file): ",
                          data::FirstOf(index.quarantined, /*pictures_only=*/true, index.bad_pictures))),
                      ExitCode::kBadData);
}

// Shard i indexes files i, i + shards, ... of all sources; the finish task merges them into the manifest.
class IndexStage final : public PoolStage {
 public:
  static absl::StatusOr<std::unique_ptr<IndexStage>> Create(const StageContext& context) {
    auto stage = std::unique_ptr<IndexStage>(new IndexStage(context));
    VLM_ASSIGN_OR_RETURN(const InputArtifact tokenizer, context.Input(stage->settings_.tokenizer_stage));
    VLM_ASSIGN_OR_RETURN(ReadTokenizerFile read, ReadTokenizer(context.files, tokenizer.folder));
    stage->tokenizer_json_ = std::move(read.json);
    stage->tokenizer_ = std::move(read.tokenizer);
    const std::string name = stage->settings_.chat_template == spec::ChatTemplate::kChatml ? "chatml" : "plain";
    VLM_ASSIGN_OR_RETURN(stage->template_, data::NewChatTemplate(name, stage->tokenizer_.get()));
    stage->render_.tokenizer_digest = Sha256Of(stage->tokenizer_json_).Hex();
    stage->render_.chat_template = name;
    stage->render_.context = stage->settings_.context;
    stage->rule_ = RuleOf(stage->settings_);
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
      absl::StatusOr<data::FileIndex> index =
          data::IndexFile(context_.files, files[i], {render_, rule_.policy}, *template_, advance);
      if (!index.ok()) return WithExitCode(index.status(), ExitCode::kBadData);
      if (rule_.policy == data::BadPicturePolicy::kFail) VLM_RETURN_IF_ERROR(CheckNone(*index));
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
    data::Manifest manifest = data::MergeIndexes(render_, sources, std::move(indexes));
    manifest.bad_pictures = rule_;
    Tell(manifest);
    VLM_RETURN_IF_ERROR(CheckUsable(manifest));
    data::ManifestBytes bytes = data::EncodeManifest(manifest);
    return std::vector<ArtifactFile>{{data::kManifestFile, std::move(bytes.json)},
                                     {data::kSamplesFile, std::move(bytes.samples)},
                                     {data::kImagesFile, std::move(bytes.images)},
                                     {data::kQuarantineFile, std::move(bytes.quarantine)},
                                     {kTokenizerFile, tokenizer_json_}};
  }

 private:
  explicit IndexStage(const StageContext& context) : context_(context), settings_(context.stage->index()) {}

  // What is not used, to the log and the metrics.
  void Tell(const data::Manifest& manifest) const {
    for (size_t i = 0; i < std::min(kQuarantinedLogged, manifest.quarantined.size()); ++i) {
      const data::Quarantined& one = manifest.quarantined[i];
      std::fprintf(stderr, "%s: %s\n", one.action.c_str(), data::PlaceAndReason(one).c_str());
    }
    uint64_t rejected = 0, bad = 0;
    for (const data::ManifestSource& source : manifest.sources) {
      rejected += source.rejected;
      bad += source.bad_pictures;
      absl::FPrintF(stderr, "source %s: %d samples, %d records rejected, %d of %d pictures bad\n", source.name,
                    source.samples, source.rejected, source.bad_pictures, source.pictures);
    }
    if (!manifest.quarantined.empty()) {
      absl::FPrintF(stderr, "%d of them are named in %s\n", manifest.quarantined.size(), data::kQuarantineFile);
    }
    context_.link->AddMetric("samples_rejected", 0, static_cast<double>(rejected));
    context_.link->AddMetric("bad_pictures", 0, static_cast<double>(bad));
  }

  absl::Status CheckUsable(const data::Manifest& manifest) const {
    for (const data::ManifestSource& source : manifest.sources) {
      std::vector<data::Quarantined> quarantined;
      for (const data::Quarantined& one : manifest.quarantined) {
        if (one.source == source.name) quarantined.push_back(one);
      }
      if (rule_.TooMany(source.bad_pictures, source.pictures)) {
        return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                                "more pictures of source ", source.name,
                                " do not decode than data.bad_pictures_max allows; replace "
                                "them or raise it (",
                                source.bad_pictures, " of ", source.pictures, " pictures, limit ", rule_.share_max,
                                "): ", data::FirstOf(quarantined, /*pictures_only=*/true, source.bad_pictures))),
                            ExitCode::kBadData);
      }
      if (source.samples == 0) {
        return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                                "no record of source ", source.name, " is usable; correct its files (", source.rejected,
                                " rejected): ", data::FirstOf(quarantined, false, source.rejected))),
                            ExitCode::kBadData);
      }
    }
    return absl::OkStatus();
  }

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
  data::BadPictureRule rule_;
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
