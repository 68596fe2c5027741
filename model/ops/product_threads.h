// Keeps the bits of a matrix product apart from the number of threads.
#ifndef VLM_MODEL_OPS_PRODUCT_THREADS_H_
#define VLM_MODEL_OPS_PRODUCT_THREADS_H_

#include <cstdint>

namespace vlm::model::ops {

// MKL, which multiplies on x86, splits a product over its threads, and blocks a narrow part, and so rounds it, in
// another way than the whole. Tried with 2 to 8 threads on 4,000 random shapes of depth up to 16,640, on an AMD EPYC
// with AVX2 (decision 9): a result with at least 27 rows and columns per thread has the bits of one thread. While one
// of these lives, products of the calling thread run on one thread when the result is narrower; but not those of up to
// three rows, which MKL splits by columns without harm and which cached generation is made of.
class ProductThreads {
 public:
  ProductThreads(int64_t rows, int64_t columns);  // of the result
  ~ProductThreads();
  ProductThreads(const ProductThreads&) = delete;
  ProductThreads& operator=(const ProductThreads&) = delete;

  static constexpr int64_t kNarrowPerThread = 32;
  static constexpr int64_t kFewRows = 3;

 private:
  int before_ = 0;
  bool limited_ = false;
};

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_PRODUCT_THREADS_H_
