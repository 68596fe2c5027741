#include "model/layer_cache.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cstring>

#include "base/check.h"

namespace vlm::model {
namespace {

struct TokenRun {
  int64_t begin, count;
};

// Tokens of `source_NGE` to place `at` of one row of the cache. A decoding step copies one token
// per document and layer: on the CPU by plain memory, not by views.
void CopyTokens(const at::Tensor& source_NGE, const TokenRun& run, at::Tensor cache_RCGE, int64_t row, int64_t at) {
  const int64_t token = source_NGE.size(1) * source_NGE.size(2);
  const bool plain = source_NGE.is_cpu() && source_NGE.stride(2) == 1 && source_NGE.stride(1) == source_NGE.size(2);
  if (!plain) {
    cache_RCGE[row].narrow(0, at, run.count).copy_(source_NGE.narrow(0, run.begin, run.count));
    return;
  }
  const size_t item = source_NGE.element_size();
  const auto* source = static_cast<const std::byte*>(source_NGE.const_data_ptr());
  auto* target =
      static_cast<std::byte*>(cache_RCGE.mutable_data_ptr()) + (row * cache_RCGE.size(1) + at) * token * item;
  for (int64_t t = 0; t < run.count; ++t) {
    std::memcpy(target + t * token * item, source + (run.begin + t) * source_NGE.stride(0) * item, token * item);
  }
}

}  // namespace

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
    CopyTokens(k_NGE, {begin, count}, keys_RCGE_, row, lengths_[row]);
    CopyTokens(v_NGE, {begin, count}, values_RCGE_, row, lengths_[row]);
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
