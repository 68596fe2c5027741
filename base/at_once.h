// The same work on several things, some of them at a time.
#ifndef VLM_BASE_AT_ONCE_H_
#define VLM_BASE_AT_ONCE_H_

#include <cstddef>
#include <functional>

#include "base/status.h"

namespace vlm {

// Calls work(i, thread) for each i in [0, count), begun in that order, on up to `threads` threads, this one among them;
// `thread` in [0, threads) is for what a thread keeps between calls. Returns once all that were begun have ended. After
// an error none is begun any more; the error is that of the smallest i that had one.
absl::Status ForEachAtOnce(size_t count, int threads, const std::function<absl::Status(size_t i, int thread)>& work);

}  // namespace vlm

#endif  // VLM_BASE_AT_ONCE_H_
