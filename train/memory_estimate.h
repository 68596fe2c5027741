// How much memory a rank will need, from the model, the schedule and sizes alone: what `vlmctl model show` prints.
#ifndef VLM_TRAIN_MEMORY_ESTIMATE_H_
#define VLM_TRAIN_MEMORY_ESTIMATE_H_

#include <cstdint>
#include <vector>

#include "model/graph.h"
#include "train/buckets.h"
#include "train/ledger.h"
#include "train/parameter_store.h"
#include "train/schedule.h"

namespace vlm::train {

struct EstimatedRank {
  StoreOptions store;
  int world = 1;
};

// Parameters, gathered, gradients, master, moments and scratch by the formulas of train/ledger.h, so equal to what the
// store's ledger counts. Snapshot: the largest rank's files of a first save (later ones leave frozen weights out), from
// when the save begins until its files are written. Activations: the peak over one micro-batch of `counts`, from the
// units' footprints, within ten per cent of what the CPU's allocator sees in fp32; in bf16 the fp32 copies of single
// operations come on top.
ResidentBytes EstimateMemory(const model::Graph& graph, const std::vector<BucketSpec>& buckets,
                             const Schedule& schedule, const EstimatedRank& rank, const model::Counts& counts);

// The most of it at one time, with one save on its way: a save gathers between steps, when there are no activations.
int64_t PeakBytes(const ResidentBytes& bytes);

// The largest sum of activations at one time while `schedule` runs.
int64_t PeakActivations(const model::Graph& graph, const Schedule& schedule, const model::Counts& counts,
                        int64_t element_bytes);

}  // namespace vlm::train

#endif  // VLM_TRAIN_MEMORY_ESTIMATE_H_
