#include "worker/memory_kills.h"

namespace vlm::worker {

void MemoryKills::Read(absl::Duration now, uint64_t count) {
  Forget(now);
  if (count > count_) kills_.push_back({now, count - count_});
  count_ = count;
}

bool MemoryKills::Take(absl::Duration now) {
  Forget(now);
  if (kills_.empty()) return false;
  if (--kills_.front().number == 0) kills_.pop_front();
  return true;
}

void MemoryKills::Forget(absl::Duration now) {
  while (!kills_.empty() && now - kills_.front().seen > kFresh) kills_.pop_front();
}

}  // namespace vlm::worker
