#include "spec/expand.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "spec/check.h"
#include "spec/parse.h"
#include "spec/scalar.h"
#include "spec/value_path.h"

namespace vlm::spec {
namespace {

bool IsTraining(const YamlNode& stage) {
  const YamlNode* kind = stage.Find("kind");
  return kind != nullptr && (kind->scalar == "pretrain" || kind->scalar == "align" || kind->scalar == "sft");
}

// The value below `node` along `keys`; null when one is missing.
const YamlNode* Along(const YamlNode* node, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    if (node == nullptr) return nullptr;
    node = node->Find(key);
  }
  return node;
}

YamlNode MapNode(const Place& at) {
  YamlNode node;
  node.kind = YamlNode::Kind::kMap;
  node.at = at;
  return node;
}

void Put(YamlNode& map, std::string key, YamlNode value) {
  const Place at = value.at;
  map.entries.push_back({std::move(key), at, std::move(value)});
}

// Takes the value of `key` out of `map`.
std::optional<YamlNode> Take(YamlNode& map, std::string_view key) {
  const auto found =
      std::find_if(map.entries.begin(), map.entries.end(), [&](const YamlEntry& entry) { return entry.key == key; });
  if (found == map.entries.end()) return std::nullopt;
  YamlNode value = std::move(found->value);
  map.entries.erase(found);
  return value;
}

class IndexInserter {
 public:
  IndexInserter(YamlNode* stages, Diagnostics* diagnostics) : stages_(stages), diagnostics_(diagnostics) {
    for (const YamlNode& stage : stages->items) {
      const YamlNode* name = stage.Find("name");
      if (name != nullptr && name->is_scalar()) names_.insert(name->scalar);
      const YamlNode* kind = stage.Find("kind");
      if (name != nullptr && kind != nullptr && kind->scalar == "tokenizer") tokenizers_.push_back(name->scalar);
    }
  }

  void Run() {
    for (size_t i = 0; i < stages_->items.size(); ++i) {
      YamlNode& stage = stages_->items[i];
      YamlNode* data = stage.Find("data");
      if (!IsTraining(stage) || data == nullptr || !data->is_map() || data->Find("index") != nullptr) continue;
      const YamlNode* mixture = data->Find("mixture");
      if (mixture == nullptr || !mixture->is_list()) continue;
      std::optional<YamlNode> index = MakeIndex(stage, i, *data);
      if (!index) continue;
      stages_->items.insert(stages_->items.begin() + static_cast<std::ptrdiff_t>(i), *std::move(index));
      ++i;
    }
  }

 private:
  std::optional<YamlNode> MakeIndex(YamlNode& stage, size_t number, YamlNode& data) {
    const std::string path = absl::StrCat("spec.stages[", ElementName(stage, number), "].data");
    const std::string name = absl::StrCat(ElementName(stage, number), "-index");
    std::optional<YamlNode> tokenizer = Tokenizer(data, path);
    if (!tokenizer) return std::nullopt;
    if (!names_.insert(name).second) {
      diagnostics_->Add({path, data.at.ToPosition(),
                         absl::StrCat("no index can be inserted: a stage is named '", name, "' already"),
                         "name it in data.index: {stage: NAME}"});
      return std::nullopt;
    }
    YamlNode index_data = MapNode(data.at);
    Put(index_data, "sources", Sources(*data.Find("mixture")));  // looked up now: keys before it may have been taken
    Put(index_data, "tokenizer", *std::move(tokenizer));
    std::optional<YamlNode> chat_template = Take(data, "template");
    const bool plain = stage.Find("kind")->scalar == "pretrain";
    Put(index_data, "template",
        chat_template ? *std::move(chat_template) : ScalarNode(plain ? "plain" : "chatml", data.at));
    for (const char* const key : {"on_bad_picture", "bad_pictures_max"}) {
      if (std::optional<YamlNode> stated = Take(data, key)) Put(index_data, key, *std::move(stated));
    }
    PutModelSizes(stage, index_data);

    YamlNode index = MapNode(stage.at);
    Put(index, "name", ScalarNode(name, data.at));
    Put(index, "kind", ScalarNode("index", data.at));
    Put(index, "data", std::move(index_data));
    YamlNode reference = MapNode(data.at);
    Put(reference, "stage", ScalarNode(name, data.at));
    Put(data, "index", std::move(reference));
    return index;
  }

  std::optional<YamlNode> Tokenizer(YamlNode& data, const std::string& path) {
    if (std::optional<YamlNode> stated = Take(data, "tokenizer")) return stated;
    if (tokenizers_.size() != 1) {
      diagnostics_->Add({path, data.at.ToPosition(),
                         absl::StrCat("missing key: 'index'; none can be inserted, for the job has ",
                                      tokenizers_.size(), " tokenizer stages"),
                         "write index: {stage: NAME}, or tokenizer: {stage: NAME}"});
      return std::nullopt;
    }
    YamlNode reference = MapNode(data.at);
    Put(reference, "stage", ScalarNode(tokenizers_.front(), data.at));
    return reference;
  }

  // Moves what the mixture reads into sources with names, and the names into the mixture.
  static YamlNode Sources(YamlNode& mixture) {
    YamlNode sources;
    sources.kind = YamlNode::Kind::kList;
    sources.at = mixture.at;
    std::set<std::string> used;
    for (size_t i = 0; i < mixture.items.size(); ++i) {
      YamlNode* source = mixture.items[i].Find("source");
      if (source == nullptr) continue;  // the check will say so
      const YamlNode* split = source->Find("split");
      std::string name = split != nullptr && IsName(split->scalar) ? split->scalar : absl::StrCat("source-", i + 1);
      if (!used.insert(name).second) {
        name = absl::StrCat(name, "-", i + 1);
        used.insert(name);
      }
      YamlNode entry = MapNode(source->at);
      Put(entry, "name", ScalarNode(name, source->at));
      Put(entry, "from", *source);
      sources.items.push_back(std::move(entry));
      *source = ScalarNode(name, source->at);
    }
    return sources;
  }

  // Follows model.from and model.llm.from to where sizes are written; at most one hop per stage.
  void PutModelSizes(const YamlNode& first, YamlNode& index_data) const {
    const YamlNode* vision = nullptr;
    const YamlNode* context = nullptr;
    const YamlNode* stage = &first;
    for (int hops = 0; stage != nullptr && hops < kStagesMax; ++hops) {
      if (vision == nullptr) vision = Along(stage, {"model", "vision"});
      if (context == nullptr) context = Along(stage, {"model", "text", "context"});
      const YamlNode* parent = Along(stage, {"model", "from", "stage"});
      if (parent == nullptr) parent = Along(stage, {"model", "llm", "from", "stage"});
      stage = parent == nullptr ? nullptr : FindByName(parent->scalar);
    }
    const YamlNode* size = Along(vision, {"image_size"});
    const YamlNode* patch = Along(vision, {"patch"});
    if (size != nullptr && patch != nullptr) {
      YamlNode image = MapNode(vision->at);
      Put(image, "size", *size);
      Put(image, "patch", *patch);
      Put(index_data, "image", std::move(image));
    }
    if (context != nullptr) Put(index_data, "context", *context);
  }

  const YamlNode* FindByName(const std::string& name) const {
    for (const YamlNode& stage : stages_->items) {
      const YamlNode* own = stage.Find("name");
      if (own != nullptr && own->scalar == name) return &stage;
    }
    return nullptr;
  }

  YamlNode* const stages_;
  Diagnostics* const diagnostics_;
  std::set<std::string> names_;
  std::vector<std::string> tokenizers_;
};

void GiveLength(YamlNode& stage) {
  YamlNode* train = stage.Find("train");
  if (train == nullptr) {
    stage.entries.push_back({"train", {}, MapNode({})});
    train = &stage.entries.back().value;
  }
  if (!train->is_map() || train->Find("steps") != nullptr || train->Find("epochs") != nullptr ||
      train->Find("tokens") != nullptr) {
    return;
  }
  train->entries.push_back({"epochs", {}, ScalarNode("1", {})});
}

}  // namespace

void ExpandJob(YamlNode* root, Diagnostics* diagnostics) {
  YamlNode* spec = root->Find("spec");
  YamlNode* stages = spec == nullptr ? nullptr : spec->Find("stages");
  if (stages == nullptr || !stages->is_list() || stages->items.size() > kStagesMax) return;
  IndexInserter(stages, diagnostics).Run();
  for (YamlNode& stage : stages->items) {
    if (IsTraining(stage)) GiveLength(stage);
  }
}

}  // namespace vlm::spec
