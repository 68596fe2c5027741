// Row loops for hand-written CPU kernels: threads of ATen's own pool, and code for the widest vectors the CPU has.
#ifndef VLM_MODEL_OPS_PARALLEL_H_
#define VLM_MODEL_OPS_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace vlm::model::ops {

// Runs body(begin, end) over disjoint ranges that cover [0, count), on ATen's intra-op threads when more than one is
// set and count > grain. (at::parallel_for is serial in a translation unit without OpenMP, and linking a second
// OpenMP runtime beside the wheel's is worse.) The body must not call ATen. Results must not depend on the cut.
void ParallelFor(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// Whether the CPU has AVX2 and FMA.
bool HasWideVectors();

template <typename Body>
__attribute__((target("avx2,fma"), noinline)) void RunWide(const Body& body, int64_t begin, int64_t end) {
  body(begin, end);
}

// ParallelFor with a body compiled twice: for the build's baseline and for AVX2. The lambda must be marked
// __attribute__((always_inline)) so that it takes its caller's instruction set.
template <typename Body>
void ParallelRows(int64_t count, int64_t grain, const Body& body) {
  ParallelFor(count, grain, [&body](int64_t begin, int64_t end) {
    if (HasWideVectors()) {
      RunWide(body, begin, end);
    } else {
      body(begin, end);
    }
  });
}

// Rows whose contributions to a column sum are added before anything else. A constant, so that the order of
// summation is a function of the shape alone, never of the number of threads.
inline constexpr int64_t kRowsPerChunk = 64;

// Adds rows 1, 2, ... of a [chunks, width] matrix into row 0, in that order.
void AddRowsInOrder(float* rows, int64_t chunks, int64_t width);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_PARALLEL_H_
