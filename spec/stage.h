// One resolved stage of a job as typed values: everything a trainer must know of the job file.
//
// Every value here has been checked against the schema (spec/schema.h): ranges, choices, and that exactly one
// of two alternatives is set. Plain data; safe to copy between threads.
#ifndef VLM_SPEC_STAGE_H_
#define VLM_SPEC_STAGE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "spec/training_settings.h"

namespace vlm::spec {

enum class StageKind { kGenerate, kIndex, kTokenizer, kPretrain, kAlign, kSft, kEvaluate };
// The word of the job file: "generate", "index", ...
std::string_view StageKindName(StageKind kind);
// A pool (generate, index, tokenizer, evaluate) leases shards to any number of ranks; a gang (pretrain, align,
// sft) starts and ends whole.
bool IsPool(StageKind kind);

struct Ranks {
  int32_t min = 1;
  int32_t max = 1;
};

// ---- generate --------------------------------------------------------------------------------------------
enum class PictureFormat { kJpeg, kPng, kMixed };
struct GeneratedPicture {
  int32_t min_size = 0;  // pixels, both sides; each picture's size is drawn in [min_size, max_size]
  int32_t max_size = 0;
  PictureFormat format = PictureFormat::kMixed;
};
struct GenerateSplit {
  std::string name;  // sentences, captions, questions, test_scenes or test_pairs
  int64_t samples = 0;
};
struct GenerateSettings {
  std::string generator;              // "shapes"
  int64_t shard_samples = 0;          // a shard holds this many samples of one split, the last may be short
  std::vector<GenerateSplit> splits;  // shards are numbered through the splits in this order
  GeneratedPicture image;
};

// ---- tokenizer and index ---------------------------------------------------------------------------------
// Where records come from: either a glob of files below the worker's data root, or one split of a generate stage.
struct DataRef {
  std::string glob;  // empty when `stage` is set
  std::string stage;
  std::string split;
};
struct TextRef {
  std::string glob;  // empty when `stage` is set
  std::string stage;
  std::vector<std::string> splits;
};
enum class SplitPattern { kGpt2, kGpt4, kQwen2 };
struct TokenizerSettings {
  std::vector<TextRef> text;
  int32_t vocab_size = 0;  // all entries: 256 bytes, merges and special tokens
  SplitPattern pattern = SplitPattern::kQwen2;
  int64_t min_frequency = 0;         // pairs seen less often are not merged
  std::vector<std::string> special;  // reserved tokens in order of their ids
};

enum class ChatTemplate { kChatml, kPlain };
struct ImageInput {
  int32_t size = 0;   // pixels, both sides, after resizing
  int32_t patch = 0;  // pixels, both sides; divides size: (size / patch)^2 tokens a picture
};
struct IndexSource {
  std::string name;
  DataRef from;
};
enum class BadPicturePolicy { kFail, kDrop, kPlaceholder };
struct IndexSettings {
  std::vector<IndexSource> sources;
  std::string tokenizer_stage;
  ChatTemplate chat_template = ChatTemplate::kChatml;
  std::optional<ImageInput> image;  // absent: pictures are refused
  int32_t context = 0;              // tokens of the longest row; a longer sample is cut or refused at ingest
  BadPicturePolicy on_bad_picture = BadPicturePolicy::kFail;  // of training on the index too
  double bad_pictures_max = 0;  // share of a source's pictures, 0 to 1; of drop and placeholder
};

// ---- evaluate --------------------------------------------------------------------------------------------
enum class Control { kNone, kBlank };  // kBlank: asked again with a blank picture
struct EvaluateTask {
  std::string name;
  std::string source;  // a source of the index
  int64_t limit = 0;   // the first so many samples; 0: all
  Control control = Control::kNone;
  std::map<std::string, double> targets;  // least accuracy by kind of question, 0 to 1; may be empty
};
struct EvaluateSettings {
  std::string model_stage;
  std::string index_stage;
  std::vector<EvaluateTask> tasks;
  int32_t max_tokens = 0;     // generated per answer
  int32_t log_images = 0;     // pictures with answers in the report
  double control_margin = 0;  // how far the control may be from the majority answer, 0 to 1
};

// ---- the stage -------------------------------------------------------------------------------------------
struct Stage {
  std::string name;
  StageKind kind = StageKind::kGenerate;
  std::vector<std::string> needs;  // direct parents, stated and implied, in the order of the job's stages
  Ranks ranks;
  uint64_t seed = 0;
  uint32_t shards = 0;  // of a pool, the finish task not counted; 0 for a gang
  std::variant<GenerateSettings, TokenizerSettings, IndexSettings, TrainingSettings, EvaluateSettings> settings;

  // The settings of this kind; a programmer's error for another kind.
  const GenerateSettings& generate() const { return std::get<GenerateSettings>(settings); }
  const TokenizerSettings& tokenizer() const { return std::get<TokenizerSettings>(settings); }
  const IndexSettings& index() const { return std::get<IndexSettings>(settings); }
  const TrainingSettings& training() const { return std::get<TrainingSettings>(settings); }
  const EvaluateSettings& evaluate() const { return std::get<EvaluateSettings>(settings); }
};

}  // namespace vlm::spec

#endif  // VLM_SPEC_STAGE_H_
