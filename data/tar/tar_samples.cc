#include <unordered_set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "data/tar/tar_reader.h"

namespace vlm::data {
namespace {

absl::Status AtMember(std::string_view what, const TarMember& member, std::string_view file_name) {
  return absl::InvalidArgumentError(
      absl::StrCat("tar shard ", absl::string_view(what.data(), what.size()), ": ", member.name, ", in ",
                   absl::string_view(file_name.data(), file_name.size()), ", offset ", member.offset));
}

struct KeyAndExtension {
  std::string_view key;
  std::string_view extension;
};

// WebDataset's rule: the key ends at the first '.' of the last path part.
KeyAndExtension CutAtFirstDot(std::string_view name) {
  const size_t slash = name.rfind('/');
  const size_t stem = slash == std::string_view::npos ? 0 : slash + 1;
  const size_t dot = name.find('.', stem);
  if (dot == std::string_view::npos || dot == stem) return {};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

}  // namespace

const TarSamplePart* TarSample::Find(std::string_view extension) const {
  for (const TarSamplePart& part : parts) {
    if (part.extension == extension) return &part;
  }
  return nullptr;
}

absl::StatusOr<std::vector<TarSample>> GroupSamples(const std::vector<TarMember>& members, std::string_view file_name) {
  std::vector<TarSample> samples;
  std::unordered_set<std::string> keys;  // looked up only, never walked
  for (const TarMember& member : members) {
    const KeyAndExtension cut = CutAtFirstDot(member.name);
    if (cut.key.empty() || cut.extension.empty()) {
      return AtMember("has a member that is not named key.extension; rename it", member, file_name);
    }
    if (samples.empty() || samples.back().key != cut.key) {
      if (!keys.insert(std::string(cut.key)).second) {
        return AtMember("has a key that comes back after another; put all parts of a sample side by side", member,
                        file_name);
      }
      samples.push_back({std::string(cut.key), {}});
    }
    std::string extension = absl::AsciiStrToLower(absl::string_view(cut.extension.data(), cut.extension.size()));
    if (samples.back().Find(extension) != nullptr) {
      return AtMember("has one extension twice in a sample; remove one", member, file_name);
    }
    samples.back().parts.push_back({std::move(extension), member.offset, member.bytes});
  }
  return samples;
}

absl::StatusOr<std::vector<TarSample>> IndexSamples(const ReadableFile& file, std::string_view file_name,
                                                    const TarLimits& limits) {
  VLM_ASSIGN_OR_RETURN(const std::vector<TarMember> members, IndexTar(file, file_name, limits));
  return GroupSamples(members, file_name);
}

absl::StatusOr<std::string> ReadSamplePart(const ReadableFile& file, std::string_view file_name,
                                           const TarSamplePart& part) {
  return ReadTarMember(file, file_name, {part.extension, part.offset, part.bytes});
}

}  // namespace vlm::data
