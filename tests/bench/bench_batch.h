// Batches that both sides of a benchmark read from one file.
#ifndef VLM_TESTS_BENCH_BENCH_BATCH_H_
#define VLM_TESTS_BENCH_BENCH_BATCH_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "model/graph.h"
#include "model/llava_config.h"

namespace vlm::bench {

// Rows [begin, end) of a batch as documents of one flat token axis. The file: ids [B, T], labels [B, T] (-100: no
// target; position t is predicted from t - 1), pixels [B, 3, S, S], image tokens in the ids. end -1: to the last.
// INVALID_ARGUMENT for what does not fit the configuration; errors of the reader.
struct BatchRows {
  int64_t begin = 0, end = -1;
};
absl::StatusOr<model::MicroBatch> ReadBatch(const std::string& path, const model::LlavaConfig& config,
                                            BatchRows rows = {});

}  // namespace vlm::bench

#endif  // VLM_TESTS_BENCH_BENCH_BATCH_H_
