// How the ranks of an attempt end together: who fails says why before it leaves.
#ifndef VLM_TRAIN_END_TOGETHER_H_
#define VLM_TRAIN_END_TOGETHER_H_

#include <functional>
#include <string_view>

#include "base/status.h"
#include "train/collective.h"
#include "train/torch_edge.h"

namespace vlm::train {

// Runs a rank's work. Where it fails, by its status or by an exception (StatusOfException), the other ranks' calls
// return ABORTED with this rank and the message. `collective` is asked after a failure; null while there is none.
inline absl::Status EndTogether(const std::function<Collective*()>& collective,
                                const std::function<absl::Status()>& work) {
  absl::Status status = CatchTorch("training", work);
  if (Collective* const joined = collective(); !status.ok() && joined != nullptr) {
    joined->Abort(std::string_view(status.message().data(), status.message().size()));
  }
  return status;
}

}  // namespace vlm::train

#endif  // VLM_TRAIN_END_TOGETHER_H_
