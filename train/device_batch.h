// Micro-batches to the device that a rank computes on.
#ifndef VLM_TRAIN_DEVICE_BATCH_H_
#define VLM_TRAIN_DEVICE_BATCH_H_

#include <ATen/core/Tensor.h>

#include "model/graph.h"

namespace vlm::train {

// The micro-batch with its tensors on `device`, ready when this returns; shares those that lie there already. What the
// host reads (counts, document starts) stays as it is.
model::MicroBatch MoveTo(const model::MicroBatch& batch, at::Device device);

}  // namespace vlm::train

#endif  // VLM_TRAIN_DEVICE_BATCH_H_
