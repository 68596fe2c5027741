// What a worker offers to run ranks on.
#ifndef VLM_WORKER_DEVICE_PROBE_H_
#define VLM_WORKER_DEVICE_PROBE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::worker {

// `slots` CPU slots with `threads` compute threads each.
std::vector<v1::Device> CpuSlots(int slots, int threads);

// NVIDIA GPUs as the kernel driver lists them below `proc_root` ("/proc/driver/nvidia"); none without a driver.
// No CUDA library is loaded, so their memory size stays 0.
std::vector<v1::Device> ProbeGpus(const std::string& proc_root, int threads);

// One exclusive lock per GPU (`<folder>/vlm-gpu-<uuid>`, flock), so that two workers of a machine never offer one
// GPU. Released with the object. ALREADY_EXISTS naming the GPU when another worker holds it.
class DeviceLocks {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceLocks>> Take(const std::string& folder,
                                                           const std::vector<v1::Device>& devices);
  ~DeviceLocks();

 private:
  DeviceLocks() = default;
  std::vector<int> files_;
};

// Physical memory in bytes; 0 when the system does not say.
uint64_t ReadMemoryBytes();

// Processes killed for memory so far: `oom_kill` of the file `memory_events` of a cgroup (v2), or, when that is empty,
// of this process's own cgroup (v2), else of the whole machine (/proc/vmstat), else 0. What it tells
// of one process's end: worker/memory_kills.h.
uint64_t ReadOutOfMemoryKills(const std::string& memory_events = "");

}  // namespace vlm::worker

#endif  // VLM_WORKER_DEVICE_PROBE_H_
