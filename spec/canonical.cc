#include "spec/canonical.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "spec/check.h"
#include "spec/checked_json.h"
#include "spec/diagnostic.h"
#include "spec/parse.h"
#include "spec/stage_json.h"
#include "spec/yaml_node.h"

namespace vlm::spec {
namespace {

using nlohmann::json;

// Changes whenever the same digest must stop meaning the same settings.
constexpr char kDigestPrefix[] = "vlm.stage/1\n";

// Raised with every change of the programs after which the same settings and inputs give other results: artifacts made
// before are then not taken for what would be made now.
int ResultVersion(StageKind kind) {
  switch (kind) {
    case StageKind::kTokenizer:
      return 1;
    case StageKind::kGenerate:
      return 2;
    case StageKind::kIndex:
    case StageKind::kPretrain:
    case StageKind::kAlign:
    case StageKind::kSft:
    case StageKind::kEvaluate:
      return 3;
  }
  VLM_CHECK(false, "stage kind without a result version");
}

// JSON as the tree the checks work on. False when nested deeper than a job file may be.
bool ToNode(const json& in, int depth, YamlNode* out) {
  if (depth > kDepthMax) return false;
  if (in.is_object()) {
    out->kind = YamlNode::Kind::kMap;
    for (const auto& [key, value] : in.items()) {
      out->entries.push_back({key, {}, {}});
      if (!ToNode(value, depth + 1, &out->entries.back().value)) return false;
    }
  } else if (in.is_array()) {
    out->kind = YamlNode::Kind::kList;
    for (const json& item : in) {
      if (!ToNode(item, depth + 1, &out->items.emplace_back())) return false;
    }
  } else if (in.is_string()) {
    *out = ScalarNode(in.get<std::string>(), {}, true);
  } else if (!in.is_null()) {
    *out = ScalarNode(in.dump(), {});
  }
  return true;
}

Digest DigestOf(StageKind kind, std::string_view semantic) {
  Sha256 sha;
  sha.Update(absl::StrCat(kDigestPrefix, "results ", ResultVersion(kind), "\n"));
  sha.Update(semantic);
  return sha.Finish();
}

}  // namespace

std::string StageToJson(const Stage& stage) { return WriteStage(stage).all; }

absl::StatusOr<Stage> StageFromJson(std::string_view text) {
  if (text.size() > kJobBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("stage JSON is too large, bytes: ", text.size()));
  }
  const json in = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (in.is_discarded() || !in.is_object()) return absl::InvalidArgumentError("stage JSON is not a JSON object");
  YamlNode node;
  Diagnostics diagnostics;
  if (!ToNode(in, 1, &node)) return absl::InvalidArgumentError("stage JSON is nested too deeply");
  const CheckedJson checked = CheckStage(&node, &diagnostics);
  VLM_RETURN_IF_ERROR(Annotate(diagnostics.ToStatus(), "stage JSON does not fit the schema"));
  Stage stage = FromCheckedJson(checked);
  // Catches what the schema would have filled in or spelled otherwise, and duplicate keys.
  if (StageToJson(stage) != text) {
    return absl::InvalidArgumentError("stage JSON is not in canonical form: was it written by another version?");
  }
  return stage;
}

Digest SemanticDigest(const Stage& stage) { return DigestOf(stage.kind, WriteStage(stage).semantic); }

CanonicalStage MakeCanonical(const Stage& stage) {
  StageTexts texts = WriteStage(stage);
  return {std::move(texts.all), DigestOf(stage.kind, texts.semantic)};
}

}  // namespace vlm::spec
