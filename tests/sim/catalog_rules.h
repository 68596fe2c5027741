// What must hold of the catalog and of the artifacts' disk, whatever fails.
#ifndef VLM_TESTS_SIM_CATALOG_RULES_H_
#define VLM_TESTS_SIM_CATALOG_RULES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/simulated_file_system.h"
#include "checkpoint/core/checkpoint_core.h"
#include "checkpoint/format/durable_file.h"

namespace vlm::sim {

// Follows the steps that are COMPLETE, as decided and as told, and looks at their files.
class CatalogRules {
 public:
  CatalogRules(SimulatedFileSystem* files, std::function<void(const std::string&)> fail)
      : files_(files), fail_(std::move(fail)) {}

  // The service has loaded its rows: what was told before is still there.
  void Started(const checkpoint::CheckpointCore& core);
  // Before the rows are synced: no call of a replaced attempt begins or commits anything, no commit without its
  // files, and no step goes that is published or the newest of its stage.
  void Decided(const checkpoint::CheckpointCore& core, const std::vector<checkpoint::CatalogEvent>& events);
  // After the sync.
  void Told(const checkpoint::CatalogEvent& event);
  // An OK answer to OpenAttempt has left.
  void Opened(const std::string& stage_uid, uint64_t fence);

  // Every file of every COMPLETE step is there as committed; with `contents` every byte is read.
  void CheckFiles(bool contents);
  // At the end, when nothing moves any more: nothing half done is left, in rows or on the disk.
  void CheckAtRest(const checkpoint::CheckpointCore& core);

 private:
  struct CompleteStep {
    std::string folder;
    std::vector<checkpoint::FileClaim> files;
    bool told = false;
    friend bool operator==(const CompleteStep& a, const CompleteStep& b) {
      return a.folder == b.folder && a.files == b.files;
    }
  };
  using Complete = std::map<checkpoint::StepKey, CompleteStep>;

  static Complete CompleteOf(const checkpoint::CheckpointCore& core);
  void CheckStep(const CompleteStep& step, bool contents);
  // A step that has left: a newer COMPLETE one has taken its place, and it is nobody's artifact.
  void CheckGone(const checkpoint::StepKey& key, const Complete& left);

  SimulatedFileSystem* const files_;
  const std::function<void(const std::string&)> fail_;
  Complete complete_;                                     // in memory
  std::map<std::string, checkpoint::StepKey> published_;  // by stage_uid, as told
  std::map<std::string, uint64_t> opened_;                // by stage_uid: the highest fence told
};

}  // namespace vlm::sim

#endif  // VLM_TESTS_SIM_CATALOG_RULES_H_
