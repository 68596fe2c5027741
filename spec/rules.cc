#include "spec/rules.h"

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "spec/check.h"
#include "spec/scalar.h"
#include "spec/schema.h"
#include "spec/value_path.h"
#include "spec/words.h"

namespace vlm::spec {
namespace {

constexpr uint32_t kPoolShardsMax = 65536;
// What a generate stage asks about, and the splits that ask: data/shapes/shapes_generator.h.
constexpr std::array<std::string_view, 4> kQuestionKinds = {"color", "shape", "position", "count"};
constexpr std::array<std::string_view, 3> kQuestionSplits = {"questions", "test_scenes", "test_pairs"};

struct Found {
  Place at;          // of the nearest part that was written
  std::string path;  // list entries by name where they have one
};

// What "train.lr.llm" or "tasks[1].source" is below `node`.
Found FindBelow(const YamlNode& node, std::string_view path) {
  Found found{node.at, ""};
  const YamlNode* at = &node;
  while (!path.empty()) {
    if (path[0] == '.') {
      found.path += '.';
      path.remove_prefix(1);
    }
    const bool entry = path[0] == '[';
    const size_t end = entry ? path.find(']') + 1 : std::min(path.find_first_of(".["), path.size());
    const std::string_view part = path.substr(0, end);
    path.remove_prefix(end);
    if (entry) {
      const auto number = static_cast<size_t>(*ReadInteger(part.substr(1, part.size() - 2)));
      at = at != nullptr && number < at->items.size() ? &at->items[number] : nullptr;
      absl::StrAppend(&found.path, "[", at == nullptr ? absl::StrCat(number) : ElementName(*at, number), "]");
    } else {
      at = at == nullptr ? nullptr : at->Find(part);
      found.path += part;
    }
    if (at != nullptr && at->at.known()) found.at = at->at;
  }
  return found;
}

std::string Quoted(std::string_view name) { return absl::StrCat("'", std::string(name), "'"); }

class RuleChecker {
 public:
  // `job_ranks` may be null.
  RuleChecker(const YamlNode& stages, const YamlNode* job_ranks, const std::vector<std::optional<Stage>>& all,
              Diagnostics* diagnostics)
      : nodes_(stages), job_ranks_(job_ranks), all_(all), diagnostics_(diagnostics) {}

  void Run() {
    for (number_ = 0; number_ < all_.size(); ++number_) {
      if (!all_[number_]) continue;
      const Stage& stage = *all_[number_];
      if (stage.ranks.min > stage.ranks.max && !InheritsRanks()) {
        Report("ranks.min",
               absl::StrCat("impossible number of ranks: min ", stage.ranks.min, " is above max ", stage.ranks.max));
      }
      switch (stage.kind) {
        case StageKind::kGenerate:
          Generate(stage);
          break;
        case StageKind::kTokenizer:
          Tokenizer(stage.tokenizer());
          break;
        case StageKind::kIndex:
          Index(stage.index());
          break;
        case StageKind::kPretrain:
        case StageKind::kAlign:
        case StageKind::kSft:
          Training(stage);
          break;
        case StageKind::kEvaluate:
          Evaluate(stage.evaluate());
          break;
      }
    }
  }

 private:
  void Report(const std::string& below, std::string message, std::string suggestion = "") {
    const YamlNode& node = nodes_.items[number_];
    const Found found = FindBelow(node, below);
    diagnostics_->Add({absl::StrCat("spec.stages[", ElementName(node, number_), "].", found.path),
                       found.at.ToPosition(), std::move(message), std::move(suggestion)});
  }

  // The job's ranks are reported once, where they stand.
  bool InheritsRanks() const {
    const YamlNode* ranks = nodes_.items[number_].Find("ranks");
    return job_ranks_ != nullptr && ranks != nullptr && ranks->at.ToPosition() == job_ranks_->at.ToPosition();
  }

  const Stage* Find(const std::string& name) const {
    for (const std::optional<Stage>& stage : all_) {
      if (stage && stage->name == name) return &*stage;
    }
    return nullptr;
  }

  // Names that must differ: `name_of(i)` at `list`[i].`key`.
  template <typename List, typename NameOf>
  void Distinct(const List& list, const std::string& path, const std::string& key, NameOf name_of) {
    std::set<std::string> seen;
    for (size_t i = 0; i < list.size(); ++i) {
      if (seen.insert(name_of(list[i])).second) continue;
      Report(absl::StrCat(path, "[", i, "]", key), absl::StrCat("duplicate: ", Quoted(name_of(list[i]))));
    }
  }

  void Generate(const Stage& stage) {
    const GenerateSettings& settings = stage.generate();
    if (settings.image.min_size > settings.image.max_size) {
      Report("generate.image.min_size",
             absl::StrCat("min_size ", settings.image.min_size, " is above max_size ", settings.image.max_size));
    }
    Distinct(settings.splits, "generate.splits", ".name", [](const GenerateSplit& split) { return split.name; });
    if (stage.shards > kPoolShardsMax) {
      Report("generate.shard_samples",
             absl::StrCat("too many shards: ", stage.shards, ", the limit is ", kPoolShardsMax), "make shards larger");
    }
  }

  void Split(const std::string& stage_name, const std::string& split, const std::string& below) {
    const Stage* parent = Find(stage_name);
    if (parent == nullptr || parent->kind != StageKind::kGenerate) return;
    std::vector<std::string> names;
    for (const GenerateSplit& known : parent->generate().splits) names.push_back(known.name);
    Known("split", split, names, absl::StrCat("stage ", Quoted(stage_name)), below);
  }

  void Known(const std::string& what, const std::string& name, const std::vector<std::string>& known,
             const std::string& owner, const std::string& below) {
    if (std::find(known.begin(), known.end(), name) != known.end()) return;
    const std::string nearest = Nearest(name, known);
    Report(below, absl::StrCat(owner, " has no ", what, " ", Quoted(name)),
           nearest.empty() ? absl::StrCat("it has: ", absl::StrJoin(known, ", "))
                           : absl::StrCat("did you mean '", nearest, "'?"));
  }

  void Tokenizer(const TokenizerSettings& settings) {
    for (size_t i = 0; i < settings.text.size(); ++i) {
      for (size_t j = 0; j < settings.text[i].splits.size(); ++j) {
        Split(settings.text[i].stage, settings.text[i].splits[j], absl::StrCat("data.text[", i, "].splits[", j, "]"));
      }
    }
    Distinct(settings.special, "tokenizer.special", "", [](const std::string& token) { return token; });
    constexpr int32_t kBytes = 256;
    const auto least = kBytes + static_cast<int32_t>(settings.special.size());
    if (settings.vocab_size < least) {
      Report("tokenizer.vocab_size", absl::StrCat("too small for 256 bytes and ", settings.special.size(),
                                                  " special tokens: ", settings.vocab_size));
    }
  }

  void Index(const IndexSettings& settings) {
    Distinct(settings.sources, "data.sources", ".name", [](const IndexSource& source) { return source.name; });
    for (size_t i = 0; i < settings.sources.size(); ++i) {
      const DataRef& from = settings.sources[i].from;
      if (!from.stage.empty()) Split(from.stage, from.split, absl::StrCat("data.sources[", i, "].from.split"));
    }
    if (settings.image && settings.image->size % settings.image->patch != 0) {
      Report("data.image.size",
             absl::StrCat("not a multiple of patch ", settings.image->patch, ": ", settings.image->size));
    }
    const Stage* tokenizer = Find(settings.tokenizer_stage);
    if (tokenizer == nullptr || tokenizer->kind != StageKind::kTokenizer) return;
    const std::vector<std::string>& special = tokenizer->tokenizer().special;
    const auto needs_token = [&](const std::string& token, const std::string& below, const std::string& why) {
      if (std::find(special.begin(), special.end(), token) != special.end()) return;
      Report(below,
             absl::StrCat(why, " needs the special token ", Quoted(token), ", which tokenizer stage ",
                          Quoted(tokenizer->name), " does not reserve"),
             "add it to tokenizer.special");
    };
    needs_token("<|endoftext|>", "data.tokenizer", "the end of a document");
    if (settings.chat_template == ChatTemplate::kChatml) {
      needs_token("<|im_start|>", "data.template", "template chatml");
      needs_token("<|im_end|>", "data.template", "template chatml");
    }
    if (settings.image) needs_token("<|image|>", "data.image", "a picture");
  }

  void Training(const Stage& stage) {
    const TrainingSettings& settings = stage.training();
    Model(settings.model);
    const TrainSettings& train = settings.train;
    const int lengths =
        train.length.steps.has_value() + train.length.epochs.has_value() + train.length.tokens.has_value();
    if (lengths > 1) Report("train", "only one of steps, epochs and tokens may stand");
    if (train.micro_batch > train.global_batch) {
      Report("train.micro_batch", absl::StrCat("above global_batch ", train.global_batch, ": ", train.micro_batch));
    }
    if (train.length.steps && train.schedule.warmup > *train.length.steps) {
      Report("train.schedule.warmup",
             absl::StrCat("longer than the training of ", *train.length.steps, " steps: ", train.schedule.warmup));
    }
    const CheckpointSettings& checkpoint = settings.checkpoint;
    if (checkpoint.keep_every % checkpoint.every != 0) {
      Report("checkpoint.keep_every",
             absl::StrCat("not a multiple of every ", checkpoint.every, ": ", checkpoint.keep_every));
    }
    for (size_t i = 0; i < train.rules.size(); ++i) {
      if (!train.rules[i].lr && !train.rules[i].weight_decay) {
        Report(absl::StrCat("train.rules[", i, "]"), "a rule must set lr or weight_decay");
      }
    }
    Trainable(stage.kind, train);
    Mixture(settings);
    Sizes(stage);
  }

  void Model(const TrainingModel& model) {
    if (model.text) {
      const TextModel& text = *model.text;
      if (text.hidden % text.heads != 0 || (text.hidden / text.heads) % 2 != 0) {
        Report("model.text.hidden",
               absl::StrCat("hidden / heads must be a whole even number: ", text.hidden, " / ", text.heads));
      }
      if (text.heads % text.kv_heads != 0) {
        Report("model.text.kv_heads", absl::StrCat("does not divide heads ", text.heads, ": ", text.kv_heads));
      }
    }
    if (!model.vision) return;
    const VisionModel& vision = *model.vision;
    if (vision.hidden % vision.heads != 0) {
      Report("model.vision.hidden", absl::StrCat("not a multiple of heads ", vision.heads, ": ", vision.hidden));
    }
    if (vision.image_size % vision.patch != 0) {
      Report("model.vision.image_size",
             absl::StrCat("not a multiple of patch ", vision.patch, ": ", vision.image_size));
    }
  }

  void Trainable(StageKind kind, const TrainSettings& train) {
    std::set<std::string> groups;
    for (size_t i = 0; i < train.trainable.size(); ++i) {
      const std::string& selector = train.trainable[i];
      const std::string below = absl::StrCat("train.trainable[", i, "]");
      if (!IsTrainableSelector(selector)) {
        Report(below, absl::StrCat("names no part of the model: ", Quoted(selector)),
               "write all, llm, vision, connector, or blocks like llm.blocks[-4:]");
        continue;
      }
      const std::string group = selector.substr(0, selector.find('.'));
      if (kind == StageKind::kPretrain && group != "llm" && group != "all") {
        Report(below, absl::StrCat("a pretrain stage has no such part: ", Quoted(selector)));
      } else if (group == "all") {
        groups.insert("llm");
        if (kind != StageKind::kPretrain) groups.insert({std::string("vision"), std::string("connector")});
      } else {
        groups.insert(group);
      }
    }
    for (const std::string& group : groups) {
      if (train.lr.contains(group)) continue;
      Report("train.lr", absl::StrCat("missing learning rate of a group that trains: ", Quoted(group)),
             absl::StrCat("add ", group, ": NUMBER"));
    }
  }

  std::vector<std::string> SourceNames(const IndexSettings& index) const {
    std::vector<std::string> names;
    for (const IndexSource& source : index.sources) names.push_back(source.name);
    return names;
  }

  void Mixture(const TrainingSettings& settings) {
    Distinct(settings.data.mixture, "data.mixture", ".source", [](const MixtureEntry& entry) { return entry.source; });
    const Stage* index = Find(settings.data.index_stage);
    if (index == nullptr || index->kind != StageKind::kIndex) return;
    for (size_t i = 0; i < settings.data.mixture.size(); ++i) {
      Known("source", settings.data.mixture[i].source, SourceNames(index->index()),
            absl::StrCat("index stage ", Quoted(index->name)), absl::StrCat("data.mixture[", i, "].source"));
    }
  }

  // The index a stage reads against the sizes of the model that reads it.
  void Sizes(const Stage& stage) {
    const std::string& index_name =
        stage.kind == StageKind::kEvaluate ? stage.evaluate().index_stage : stage.training().data.index_stage;
    const Stage* index = Find(index_name);
    if (index == nullptr || index->kind != StageKind::kIndex) return;
    const TextModel* text = nullptr;
    const VisionModel* vision = nullptr;
    const Stage* from = &stage;
    for (size_t hops = 0; from != nullptr && hops <= all_.size(); ++hops) {
      if (from->kind == StageKind::kEvaluate) {
        from = Find(from->evaluate().model_stage);
        continue;
      }
      if (!std::holds_alternative<TrainingSettings>(from->settings)) return;
      const TrainingModel& model = from->training().model;
      if (model.text) text = &*model.text;
      if (model.vision) vision = &*model.vision;
      from = Find(model.from_stage.empty() ? model.llm_stage : model.from_stage);
    }
    const IndexSettings& settings = index->index();
    if (text != nullptr && settings.context > text->context) {
      Report("data.index", absl::StrCat("the index's context of ", settings.context,
                                        " tokens is above the model's: ", text->context));
    }
    if (!settings.image) return;
    if (stage.kind == StageKind::kPretrain) {
      Report("data.index", "a pretrain stage reads text only, and its index has pictures");
    } else if (vision != nullptr &&
               (vision->image_size != settings.image->size || vision->patch != settings.image->patch)) {
      Report("data.index", absl::StrCat("the index's pictures of ", settings.image->size, " pixels in patches of ",
                                        settings.image->patch, " differ from the model's: ", vision->image_size,
                                        " and ", vision->patch));
    }
  }

  void Evaluate(const EvaluateSettings& settings) {
    Distinct(settings.tasks, "tasks", ".name", [](const EvaluateTask& task) { return task.name; });
    const Stage* index = Find(settings.index_stage);
    if (index != nullptr && index->kind == StageKind::kIndex) {
      for (size_t i = 0; i < settings.tasks.size(); ++i) {
        Known("source", settings.tasks[i].source, SourceNames(index->index()),
              absl::StrCat("index stage ", Quoted(index->name)), absl::StrCat("tasks[", i, "].source"));
        if (settings.tasks[i].control == Control::kBlank && !index->index().image) {
          Report(absl::StrCat("tasks[", i, "].control"), "a control with blank pictures needs an index with pictures");
        }
        Targets(settings.tasks[i], index->index(), absl::StrCat("tasks[", i, "].targets"));
      }
    }
    Sizes(*all_[number_]);
  }

  // Kinds of questions are known before the run only where the job draws them itself.
  void Targets(const EvaluateTask& task, const IndexSettings& index, const std::string& below) {
    for (const IndexSource& source : index.sources) {
      const Stage* const maker = source.name == task.source ? Find(source.from.stage) : nullptr;
      if (maker == nullptr || maker->kind != StageKind::kGenerate) continue;
      if (std::find(kQuestionSplits.begin(), kQuestionSplits.end(), source.from.split) == kQuestionSplits.end())
        continue;
      const std::vector<std::string> kinds(kQuestionKinds.begin(), kQuestionKinds.end());
      for (const auto& [kind, target] : task.targets) {
        const bool plain =
            std::all_of(kind.begin(), kind.end(), [](char c) { return absl::ascii_isalnum(c) || c == '_'; });
        Known("question of kind", kind, kinds, absl::StrCat("split ", Quoted(source.from.split)),
              plain ? absl::StrCat(below, ".", kind) : below);
      }
    }
  }

  const YamlNode& nodes_;
  const YamlNode* const job_ranks_;
  const std::vector<std::optional<Stage>>& all_;
  Diagnostics* const diagnostics_;
  size_t number_ = 0;  // of the stage being checked
};

}  // namespace

void CheckRules(const YamlNode& root, const std::vector<std::optional<Stage>>& stages, Diagnostics* diagnostics) {
  const YamlNode* spec = root.Find("spec");
  const YamlNode* list = spec == nullptr ? nullptr : spec->Find("stages");
  if (list == nullptr || !list->is_list() || list->items.size() != stages.size()) return;
  RuleChecker(*list, spec->Find("ranks"), stages, diagnostics).Run();
}

void CheckJobRules(const YamlNode& root, Diagnostics* diagnostics) {
  const auto report = [&](const std::string& path, std::string message, std::string suggestion) {
    diagnostics->Add({path, FindBelow(root, path).at.ToPosition(), std::move(message), std::move(suggestion)});
  };
  if (const YamlNode* metadata = root.Find("metadata"); metadata != nullptr) {
    const YamlNode* name = metadata->Find("name");
    const auto allowed = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
    };
    if (name != nullptr && name->is_scalar() && IsName(name->scalar) &&
        !std::all_of(name->scalar.begin(), name->scalar.end(), allowed)) {
      report("metadata.name", absl::StrCat("not a job name: ", Quoted(name->scalar)),
             "up to 63 lower-case letters, digits, '-' and '.'");
    }
  }
  const YamlNode* spec = root.Find("spec");
  if (spec == nullptr) return;
  if (const YamlNode* artifacts = spec->Find("artifacts"); artifacts != nullptr && artifacts->is_scalar()) {
    const bool address = artifacts->scalar.starts_with("file:///");
    if (!address && !artifacts->scalar.starts_with("/") && artifacts->scalar.find("://") == std::string::npos) {
      report("spec.artifacts", absl::StrCat("not an absolute folder: ", artifacts->Describe()),
             "write /path or file:///path");
    } else if (artifacts->scalar.starts_with("file://") && !address) {
      report("spec.artifacts", absl::StrCat("not an address of a local folder: ", artifacts->Describe()),
             "write file:///path");
    }
  }
  const YamlNode* ranks = spec->Find("ranks");
  const YamlNode* min = ranks == nullptr ? nullptr : ranks->Find("min");
  const YamlNode* max = ranks == nullptr ? nullptr : ranks->Find("max");
  if (min == nullptr || max == nullptr) return;
  const std::optional<int64_t> least = ReadInteger(min->scalar), most = ReadInteger(max->scalar);
  if (least && most && *least > *most) {
    report("spec.ranks.min", absl::StrCat("impossible number of ranks: min ", *least, " is above max ", *most), "");
  }
}

}  // namespace vlm::spec
