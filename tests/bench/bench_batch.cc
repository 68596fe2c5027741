#include "tests/bench/bench_batch.h"

#include <ATen/ATen.h>

#include <vector>

#include "model/llava.h"
#include "tests/bench/bench_model.h"

namespace vlm::bench {
namespace {

constexpr int64_t kNoTarget = -100;

}  // namespace

absl::StatusOr<model::MicroBatch> ReadBatch(const std::string& path, const model::LlavaConfig& config, BatchRows rows) {
  VLM_ASSIGN_OR_RETURN(const auto tensors, ReadTensors(path));
  const int64_t end = rows.end < 0 ? tensors.at("ids").size(0) : rows.end;
  const int64_t count = end - rows.begin, length = tensors.at("ids").size(1);
  const auto part = [&](const char* name) { return tensors.at(name).slice(0, rows.begin, end).contiguous(); };
  const at::Tensor labels_BT = part("labels");
  model::MicroBatch batch;
  batch.ids_N = part("ids").flatten();
  batch.positions_N = at::arange(length, at::kLong).repeat({count});
  for (int64_t row = 0; row <= count; ++row) batch.document_starts.push_back(row * length);
  std::vector<int64_t> index, id;
  const int64_t* labels = labels_BT.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < count * length; ++n) {
    if (n % length == 0 || labels[n] == kNoTarget) continue;
    index.push_back(n - 1);
    id.push_back(labels[n]);
  }
  batch.target_index_K = at::tensor(index, at::kLong);
  batch.target_id_K = at::tensor(id, at::kLong);
  batch.target_weight_K = at::ones({batch.target_id_K.size(0)}, at::kFloat);
  batch.pixels = part("pixels");
  batch.image_row_V = (batch.ids_N == config.image_token_index).nonzero().flatten();
  batch.counts = {count * length, batch.target_id_K.size(0), count, batch.pixels.size(0), batch.image_row_V.size(0)};
  const model::BatchLimits limits = {config.text.vocab_size, config.ImageTokens(), config.vision.image_size};
  VLM_RETURN_IF_ERROR(model::ValidateMicroBatch(batch, limits));
  return batch;
}

}  // namespace vlm::bench
