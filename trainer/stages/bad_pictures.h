// Pictures of a training stage that have gone bad since they were indexed: told, counted and held against the index's
// limit, alike on every rank.
#ifndef VLM_TRAINER_STAGES_BAD_PICTURES_H_
#define VLM_TRAINER_STAGES_BAD_PICTURES_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/loader.h"
#include "data/manifest.h"

namespace vlm::trainer {

// Thread-compatible.
class BadPictures {
 public:
  // `manifest` must outlive the object.
  explicit BadPictures(const data::Manifest* manifest) : manifest_(manifest) {}

  // Those of this rank's micro-batches, to announce them; each goes to the log when it is met first.
  std::vector<uint64_t> Tell(const data::Loader::Step& loaded);

  // Those of a step over all ranks, after it ran. How many of them are new. INVALID_ARGUMENT marked as bad data, on
  // every rank at the same step, when a source has more than the manifest's rule allows: names source and pictures.
  absl::StatusOr<uint64_t> Add(uint64_t step, const std::vector<uint64_t>& pictures);

  // What a checkpoint carries, ascending; a resumed run counts on from there.
  std::vector<uint64_t> found() const { return {found_.begin(), found_.end()}; }
  // INVALID_ARGUMENT for a number that the manifest has not.
  absl::Status Restore(const std::vector<uint64_t>& found);

 private:
  // The file of a picture, an index into manifest_->files.
  uint32_t FileOf(uint64_t picture) const;
  absl::Status CheckLimit(uint64_t step) const;

  const data::Manifest* const manifest_;
  std::set<uint64_t> told_;   // by this rank, in this attempt
  std::set<uint64_t> found_;  // by any rank, over all attempts
};

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_BAD_PICTURES_H_
