#include "model/layer_cache.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "base/check.h"

namespace vlm::model {

LayerCache::LayerCache(int64_t rows, int64_t capacity) : rows_(rows), capacity_(capacity), lengths_(rows, 0) {}

void LayerCache::SetDocumentRows(std::vector<int64_t> document_rows) { document_rows_ = std::move(document_rows); }

void LayerCache::Append(const at::Tensor& k_NGE, const at::Tensor& v_NGE, const std::vector<int64_t>& document_starts) {
  VLM_CHECK(document_starts.size() == document_rows_.size() + 1, "cache rows were set for another number of documents");
  const c10::NoGradGuard no_grad;
  if (!keys_RCGE_.defined()) {
    keys_RCGE_ = at::empty({rows_, capacity_, k_NGE.size(1), k_NGE.size(2)}, k_NGE.options());
    values_RCGE_ = at::empty_like(keys_RCGE_);
  }
  for (size_t d = 0; d < document_rows_.size(); ++d) {
    const int64_t row = document_rows_[d], begin = document_starts[d], count = document_starts[d + 1] - begin;
    VLM_CHECK(lengths_[row] + count <= capacity_, "a document outgrew its cache row");
    keys_RCGE_[row].narrow(0, lengths_[row], count).copy_(k_NGE.narrow(0, begin, count));
    values_RCGE_[row].narrow(0, lengths_[row], count).copy_(v_NGE.narrow(0, begin, count));
    lengths_[row] += count;
  }
}

at::Tensor LayerCache::Keys(int64_t document) const {
  const int64_t row = document_rows_[document];
  return keys_RCGE_[row].narrow(0, 0, lengths_[row]);
}

at::Tensor LayerCache::Values(int64_t document) const {
  const int64_t row = document_rows_[document];
  return values_RCGE_[row].narrow(0, 0, lengths_[row]);
}

}  // namespace vlm::model
