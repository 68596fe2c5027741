// What every rank tells the others about its micro-batches of a step before anyone runs it.
#ifndef VLM_TRAIN_STEP_HEADER_H_
#define VLM_TRAIN_STEP_HEADER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/graph.h"
#include "train/collective.h"

namespace vlm::train {

struct MicroBatchHeader {
  int64_t global_index = 0;  // m
  model::Counts counts;
  double target_weight = 0;  // sum of the target weights, added in fp64 in order
  friend bool operator==(const MicroBatchHeader&, const MicroBatchHeader&);
};

// One rank's micro-batches, ascending m, each m mod world == rank.
struct RankHeader {
  uint64_t step = 0;
  std::string plan_hash;  // of the schedules this rank will run; at most 64 bytes
  std::vector<MicroBatchHeader> micro_batches;
  std::vector<uint64_t> bad_pictures = {};  // numbers of pictures in them that did not decode; any order
};

// The whole step, the same on every rank.
struct StepHeader {
  uint64_t step = 0;
  std::vector<MicroBatchHeader> micro_batches;  // all, in order of m
  double target_weight = 0;                     // the global denominator: summed in order of m
  model::Counts totals;
  std::vector<uint64_t> bad_pictures;  // of all ranks, ascending, each once

  int64_t MicroSteps(int world) const;
  // Whether any rank's micro-batch of this micro-step has images.
  bool HasImages(int64_t micro_step, int world) const;
};

// The header entry of a micro-batch.
MicroBatchHeader Describe(const model::MicroBatch& batch);

// Collective (AllGatherBytes). The same error on every rank: FAILED_PRECONDITION when two ranks disagree about step or
// plan (the message names both), INVALID_ARGUMENT when the micro-batches are not 0..M-1 dealt to rank m mod world, one
// has no target, or when no micro-batch has a target weight, i.e. the denominator would be 0, or their sum overflows;
// DATA_LOSS, naming the rank, when a header is none. Errors of the collective as they are.
absl::StatusOr<StepHeader> ExchangeHeader(const RankHeader& mine, Collective* collective);

// The pure halves of ExchangeHeader. What DecodeRankHeader takes is encoded as it came; DATA_LOSS for bytes that are no
// header, or one with a count that no micro-batch has.
std::string EncodeRankHeader(const RankHeader& header);
absl::StatusOr<RankHeader> DecodeRankHeader(std::string_view bytes);
absl::StatusOr<StepHeader> JoinHeaders(const std::vector<RankHeader>& by_rank);

}  // namespace vlm::train

#endif  // VLM_TRAIN_STEP_HEADER_H_
