// Keys and values of one attention layer for the documents being generated. Holds the G key/value heads, not the H
// query heads.
#ifndef VLM_MODEL_LAYER_CACHE_H_
#define VLM_MODEL_LAYER_CACHE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace vlm::model {

// Owned by generation, one per decoder block. Not thread-safe. Before each forward the owner sets which row every
// document of the micro-batch continues.
class LayerCache {
 public:
  // `rows` documents of at most `capacity` tokens each. Memory is taken on the first Append.
  LayerCache(int64_t rows, int64_t capacity);

  void SetDocumentRows(std::vector<int64_t> document_rows);

  // Appends the batch's keys and values (k_NGE, v_NGE with document_starts as in MicroBatch), after rotary embedding.
  // A row past its capacity is a programmer's error.
  void Append(const at::Tensor& k_NGE, const at::Tensor& v_NGE, const std::vector<int64_t>& document_starts);

  // Everything of the row that document d continues, the appended tokens included: [length, G, E].
  at::Tensor Keys(int64_t document) const;
  at::Tensor Values(int64_t document) const;
  // The same in the memory of all rows, contiguous [rows, capacity, G, E], for kernels; undefined before Append.
  const at::Tensor& keys_RCGE() const { return keys_RCGE_; }
  const at::Tensor& values_RCGE() const { return values_RCGE_; }
  int64_t Row(int64_t document) const { return document_rows_[document]; }
  int64_t Length(int64_t row) const { return lengths_[row]; }

 private:
  int64_t rows_, capacity_;
  at::Tensor keys_RCGE_, values_RCGE_;  // rows x capacity x G x E
  std::vector<int64_t> lengths_;        // per row
  std::vector<int64_t> document_rows_;
};

}  // namespace vlm::model

#endif  // VLM_MODEL_LAYER_CACHE_H_
