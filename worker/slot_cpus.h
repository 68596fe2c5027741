// Which of a worker's processors a rank is kept on.
#ifndef VLM_WORKER_SLOT_CPUS_H_
#define VLM_WORKER_SLOT_CPUS_H_

#include <vector>

#include "vlm/v1/worker.pb.h"

namespace vlm::worker {

// The share of `cpus` (in the order given, without repetitions) that belongs to `device`, one of `devices`: as many
// as it has threads, after those of the devices before it, so that no two devices share a processor. All of `cpus`
// when they are too few for every device or `device` is none of `devices`; nothing, which means no limit, for no
// `cpus`. A pure function.
std::vector<int> SlotCpus(const std::vector<int>& cpus, const std::vector<v1::Device>& devices,
                          const v1::Device& device);

}  // namespace vlm::worker

#endif  // VLM_WORKER_SLOT_CPUS_H_
