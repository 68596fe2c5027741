#include "model/device_batch.h"

namespace vlm::model {

MicroBatch MoveTo(const MicroBatch& batch, at::Device device) {
  MicroBatch moved = batch;
  for (at::Tensor* tensor : {&moved.ids_N, &moved.positions_N, &moved.target_index_K, &moved.target_id_K,
                             &moved.target_weight_K, &moved.pixels, &moved.image_row_V}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

}  // namespace vlm::model
