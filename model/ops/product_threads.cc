#include "model/ops/product_threads.h"

#include <ATen/Parallel.h>

#include <algorithm>

#if defined(__x86_64__)
// Of the MKL inside LibTorch: sets the calling thread's number, answers the one before; 0 is the global one.
extern "C" int MKL_Set_Num_Threads_Local(int count);
#endif

namespace vlm::model::ops {

ProductThreads::ProductThreads(int64_t rows, int64_t columns) {
#if defined(__x86_64__)
  const int threads = at::get_num_threads();
  if (threads == 1 || rows <= kFewRows || std::min(rows, columns) >= kNarrowPerThread * threads) return;
  before_ = MKL_Set_Num_Threads_Local(1);
  limited_ = true;
#else
  (void)rows, (void)columns;
#endif
}

ProductThreads::~ProductThreads() {
#if defined(__x86_64__)
  if (limited_) MKL_Set_Num_Threads_Local(before_);
#endif
}

}  // namespace vlm::model::ops
