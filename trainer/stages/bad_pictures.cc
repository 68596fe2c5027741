#include "trainer/stages/bad_pictures.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "absl/strings/str_cat.h"
#include "trainer/exit_code.h"

namespace vlm::trainer {
namespace {

constexpr size_t kNamedMax = 5;

}  // namespace

std::vector<uint64_t> BadPictures::Tell(const data::Loader::Step& loaded) {
  std::vector<uint64_t> pictures;
  for (const data::HostMicroBatch& batch : loaded.mine) {
    for (const data::BadPicture& bad : batch.bad_pictures) {
      pictures.push_back(bad.picture);
      if (!told_.insert(bad.picture).second) continue;
      std::fprintf(stderr, "bad picture since it was indexed, step %llu, %s: %s\n",
                   static_cast<unsigned long long>(loaded.step),
                   std::string(data::BadPicturePolicyName(manifest_->bad_pictures.policy)).c_str(), bad.what.c_str());
    }
  }
  return pictures;
}

absl::StatusOr<uint64_t> BadPictures::Add(uint64_t step, const std::vector<uint64_t>& pictures) {
  const size_t before = found_.size();
  VLM_RETURN_IF_ERROR(Restore(pictures));
  const uint64_t added = found_.size() - before;
  if (added > 0) VLM_RETURN_IF_ERROR(CheckLimit(step));
  return added;
}

absl::Status BadPictures::Restore(const std::vector<uint64_t>& found) {
  for (const uint64_t picture : found) {
    if (picture >= manifest_->images.size()) {
      return absl::InvalidArgumentError(absl::StrCat("bad picture that the index does not have: picture ", picture,
                                                     " of ", manifest_->images.size()));
    }
    found_.insert(picture);
  }
  return absl::OkStatus();
}

uint32_t BadPictures::FileOf(uint64_t picture) const {
  // Samples stand in the order of their pictures; one without pictures has the number of the next sample's.
  const auto after =
      std::upper_bound(manifest_->samples.begin(), manifest_->samples.end(), picture,
                       [](uint64_t number, const data::SampleRecord& sample) { return number < sample.first_image; });
  return std::prev(after)->file;
}

absl::Status BadPictures::CheckLimit(uint64_t step) const {
  std::map<std::string, std::vector<uint64_t>> by_source;
  for (const uint64_t picture : found_) by_source[manifest_->files[FileOf(picture)].source].push_back(picture);
  for (const auto& [name, bad] : by_source) {
    const uint64_t pictures = manifest_->FindSource(name)->pictures;
    if (!manifest_->bad_pictures.TooMany(bad.size(), pictures)) continue;
    std::string places;
    for (size_t i = 0; i < std::min(kNamedMax, bad.size()); ++i) {
      absl::StrAppend(&places, i == 0 ? "" : "; ", manifest_->files[FileOf(bad[i])].path, " at offset ",
                      manifest_->images[bad[i]].offset);
    }
    if (bad.size() > kNamedMax) absl::StrAppend(&places, "; and ", bad.size() - kNamedMax, " more");
    return WithExitCode(absl::InvalidArgumentError(
                            absl::StrCat("more pictures of source ", name,
                                         " have gone bad since they were indexed than the index's "
                                         "data.bad_pictures_max allows; restore the files, or index them again (step ",
                                         step, ", ", bad.size(), " of ", pictures, " pictures, limit ",
                                         manifest_->bad_pictures.share_max, "): ", places)),
                        ExitCode::kBadData);
  }
  return absl::OkStatus();
}

}  // namespace vlm::trainer
