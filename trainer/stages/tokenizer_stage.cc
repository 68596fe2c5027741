#include "absl/strings/str_cat.h"
#include "data/indexer.h"
#include "data/tokenizer/byte_pair_model.h"
#include "data/tokenizer/chat_files.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/word_counts.h"
#include "trainer/exit_code.h"
#include "trainer/pool.h"
#include "trainer/stages/pool_stages.h"

namespace vlm::trainer {
namespace {

constexpr uint64_t kCountsBytesMax = uint64_t{4} << 30;

data::SplitPattern PatternOf(spec::SplitPattern pattern) {
  switch (pattern) {
    case spec::SplitPattern::kGpt2:
      return data::SplitPattern::kGpt2;
    case spec::SplitPattern::kGpt4:
      return data::SplitPattern::kGpt4;
    case spec::SplitPattern::kQwen2:
      return data::SplitPattern::kQwen2;
  }
  return data::SplitPattern::kQwen2;
}

// Shard i counts the words of files i, i + shards, ... of the sorted list; the finish task merges and trains.
class TokenizerStage final : public PoolStage {
 public:
  explicit TokenizerStage(const StageContext& context)
      : context_(context), settings_(context.stage->tokenizer()), pattern_(PatternOf(settings_.pattern)) {}

  std::string extension() const override { return ".counts"; }

  absl::StatusOr<uint64_t> WriteShard(uint32_t shard, const std::string& path, const Advance& advance) override {
    VLM_ASSIGN_OR_RETURN(const std::vector<std::string> files, Files());
    data::WordCounts counts(pattern_);
    for (size_t i = shard; i < files.size(); i += context_.assignment->shards) {
      const absl::Status counted = data::ForEachText(context_.files, files[i], [&](std::string_view text) {
        counts.Add(text);
        advance();
      });
      VLM_RETURN_IF_ERROR(WithExitCode(counted, ExitCode::kBadData));
    }
    VLM_RETURN_IF_ERROR(WriteSynced(context_.files, path, counts.Serialize()));
    return counts.total_words();
  }

  absl::StatusOr<std::vector<ArtifactFile>> Finish(const std::vector<ShardOutput>& winners,
                                                   const Advance& advance) override {
    data::WordCounts counts(pattern_);
    for (const ShardOutput& winner : winners) {
      VLM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(context_.files, winner.file, kCountsBytesMax));
      absl::StatusOr<data::WordCounts> part = data::WordCounts::Parse(bytes);
      if (!part.ok()) return Annotate(part.status(), winner.file);
      VLM_RETURN_IF_ERROR(counts.Merge(*part));
      advance();
    }
    VLM_ASSIGN_OR_RETURN(data::BytePairModel model,
                         data::TrainBytePair(counts, {.vocab_size = settings_.vocab_size,
                                                      .min_frequency = static_cast<uint64_t>(settings_.min_frequency),
                                                      .special_tokens = data::ChatSpecialTokens(settings_.special),
                                                      .advance = advance}));
    VLM_ASSIGN_OR_RETURN(const std::unique_ptr<data::Tokenizer> tokenizer, data::Tokenizer::Create(std::move(model)));
    VLM_ASSIGN_OR_RETURN(std::string config, data::TokenizerConfigJson(*tokenizer, kTokenizerContext));
    VLM_ASSIGN_OR_RETURN(std::string special, data::SpecialTokensMapJson(*tokenizer));
    return std::vector<ArtifactFile>{{kTokenizerFile, tokenizer->ToJson()},
                                     {"tokenizer_config.json", std::move(config)},
                                     {"special_tokens_map.json", std::move(special)},
                                     {"chat_template.jinja", std::string(data::ChatMlTemplateJinja())}};
  }

 private:
  // A tokenizer knows no model yet; training stages write their own limit beside their weights.
  static constexpr int64_t kTokenizerContext = int64_t{1} << 20;

  absl::StatusOr<std::vector<std::string>> Files() const {
    std::vector<std::string> found;
    for (const spec::TextRef& text : settings_.text) {
      if (text.stage.empty()) {
        VLM_ASSIGN_OR_RETURN(const std::vector<std::string> files, context_.DataFiles(text.glob));
        found.insert(found.end(), files.begin(), files.end());
        continue;
      }
      VLM_ASSIGN_OR_RETURN(const InputArtifact input, context_.Input(text.stage));
      for (const std::string& split : text.splits) {
        VLM_ASSIGN_OR_RETURN(const std::vector<std::string> files, GeneratedFiles(context_.files, input, split));
        found.insert(found.end(), files.begin(), files.end());
      }
    }
    return found;
  }

  const StageContext& context_;
  const spec::TokenizerSettings& settings_;
  const data::SplitPattern pattern_;
};

}  // namespace

absl::StatusOr<ReadTokenizerFile> ReadTokenizer(FileSystem* files, const std::string& folder) {
  const std::string path = folder + "/" + kTokenizerFile;
  ReadTokenizerFile read;
  VLM_ASSIGN_OR_RETURN(read.json, ReadFile(files, path, data::kTokenizerJsonBytesMax));
  absl::StatusOr<std::unique_ptr<data::Tokenizer>> tokenizer = data::Tokenizer::FromJson(read.json);
  if (!tokenizer.ok()) {
    return Annotate(tokenizer.status(), "restore the tokenizer's file or train it again: " + path);
  }
  read.tokenizer = *std::move(tokenizer);
  return read;
}

absl::Status RunTokenizer(const StageContext& context) {
  TokenizerStage stage(context);
  return RunPool(context, &stage);
}

}  // namespace vlm::trainer
