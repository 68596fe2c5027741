#include "spec/compose.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "spec/elaborate.h"
#include "spec/override.h"
#include "spec/parse.h"
#include "spec/render.h"
#include "spec/yaml_node.h"

namespace vlm::spec {
namespace {

void Merge(YamlNode over, YamlNode* base) {
  if (!base->is_map() || !over.is_map()) {
    *base = std::move(over);
    return;
  }
  base->at = over.at;
  for (YamlEntry& entry : over.entries) {
    const auto found = std::find_if(base->entries.begin(), base->entries.end(),
                                    [&](const YamlEntry& known) { return known.key == entry.key; });
    if (found == base->entries.end()) {
      base->entries.push_back(std::move(entry));
    } else {
      found->at = entry.at;
      Merge(std::move(entry.value), &found->value);
    }
  }
}

class Loader {
 public:
  Loader(FileSystem* files, Diagnostics* diagnostics) : files_(files), diagnostics_(diagnostics) {}

  // `named_at` is where the file is named: nowhere for the job file itself.
  std::optional<YamlNode> Load(const std::string& path, const Position& named_at) {
    if (std::find(open_.begin(), open_.end(), path) != open_.end()) {
      open_.push_back(path);
      diagnostics_->Add({"extends", named_at,
                         absl::StrCat("files extend each other in a cycle: ", absl::StrJoin(open_, " -> ")), ""});
      return std::nullopt;
    }
    if (++files_read_ > kExtendedFilesMax + 1) {
      diagnostics_->Add({"extends", named_at, absl::StrCat("too many files: the limit is ", kExtendedFilesMax), ""});
      return std::nullopt;
    }
    absl::StatusOr<std::string> text = ReadFile(files_, path, kJobBytesMax);
    if (!text.ok()) {
      diagnostics_->Add(
          {"", named_at, absl::StrCat("cannot read the file: ", std::string(text.status().message())), ""});
      return std::nullopt;
    }
    std::optional<YamlNode> own = ReadYaml(*text, path, diagnostics_);
    if (!own) return std::nullopt;
    open_.push_back(path);
    std::optional<YamlNode> merged = Extend(path, *std::move(own));
    open_.pop_back();
    return merged;
  }

 private:
  std::optional<YamlNode> Extend(const std::string& path, YamlNode own) {
    const auto found = std::find_if(own.entries.begin(), own.entries.end(),
                                    [](const YamlEntry& entry) { return entry.key == "extends"; });
    if (found == own.entries.end()) return own;
    const YamlNode extends = std::move(found->value);
    own.entries.erase(found);
    if (!extends.is_list()) {
      diagnostics_->Add({"extends", extends.at.ToPosition(),
                         absl::StrCat("expected a list of files, got ", extends.Describe()), "write [FILE]"});
      return std::nullopt;
    }
    std::optional<YamlNode> merged;
    for (const YamlNode& item : extends.items) {
      if (!item.is_scalar() || item.scalar.empty()) {
        diagnostics_->Add(
            {"extends", item.at.ToPosition(), absl::StrCat("expected a file, got ", item.Describe()), ""});
        return std::nullopt;
      }
      const std::filesystem::path base = std::filesystem::path(path).parent_path() / item.scalar;
      std::optional<YamlNode> loaded = Load(base.lexically_normal().string(), item.at.ToPosition());
      if (!loaded) return std::nullopt;
      if (merged) {
        Merge(*std::move(loaded), &*merged);
      } else {
        merged = std::move(loaded);
      }
    }
    if (!merged) return own;
    Merge(std::move(own), &*merged);
    return merged;
  }

  FileSystem* const files_;
  Diagnostics* const diagnostics_;
  std::vector<std::string> open_;  // the file being read and those that extend it
  int files_read_ = 0;
};

}  // namespace

std::optional<std::string> Compose(FileSystem* files, const std::string& path,
                                   const std::vector<std::string>& overrides, Diagnostics* diagnostics) {
  std::optional<YamlNode> root = Loader(files, diagnostics).Load(path, {path, 0, 0});
  if (!root) return std::nullopt;
  for (const std::string& text : overrides) ApplyOverride(text, &*root, diagnostics);
  if (!ElaborateJob(&*root, diagnostics)) return std::nullopt;
  std::string composed = RenderYaml(*root);
  if (composed.size() > kJobBytesMax) {
    diagnostics->Add(
        {"",
         {path, 0, 0},
         absl::StrCat("the composed job is too large: ", composed.size(), " bytes, the limit is ", kJobBytesMax),
         ""});
    return std::nullopt;
  }
  return composed;
}

}  // namespace vlm::spec
