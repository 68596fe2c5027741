// Micro-batches to the device that a rank computes on.
#ifndef VLM_MODEL_DEVICE_BATCH_H_
#define VLM_MODEL_DEVICE_BATCH_H_

#include <ATen/core/Tensor.h>

#include "model/graph.h"

namespace vlm::model {

// The micro-batch with its tensors on `device`, ready when this returns; shares those that lie there already. What the
// host reads (counts, document starts) stays as it is.
MicroBatch MoveTo(const MicroBatch& batch, at::Device device);

}  // namespace vlm::model

#endif  // VLM_MODEL_DEVICE_BATCH_H_
