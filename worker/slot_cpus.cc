#include "worker/slot_cpus.h"

#include <algorithm>
#include <cstddef>

namespace vlm::worker {
namespace {

size_t ThreadsOf(const v1::Device& device) { return static_cast<size_t>(std::max(1, device.threads())); }

}  // namespace

std::vector<int> SlotCpus(const std::vector<int>& cpus, const std::vector<v1::Device>& devices,
                          const v1::Device& device) {
  std::vector<int> all;
  for (const int cpu : cpus) {
    if (std::find(all.begin(), all.end(), cpu) == all.end()) all.push_back(cpu);
  }
  size_t needed = 0, first = 0, threads = 0;
  for (const v1::Device& other : devices) {
    if (other.kind() == device.kind() && other.index() == device.index()) {
      first = needed;
      threads = ThreadsOf(other);
    }
    needed += ThreadsOf(other);
  }
  if (threads == 0 || needed > all.size()) return all;
  return {all.begin() + static_cast<std::ptrdiff_t>(first), all.begin() + static_cast<std::ptrdiff_t>(first + threads)};
}

}  // namespace vlm::worker
