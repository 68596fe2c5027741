// Virtual time: events in order of their due time, seeded choices, and the hash of everything that happened.
#ifndef VLM_TESTS_SIM_EVENT_QUEUE_H_
#define VLM_TESTS_SIM_EVENT_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <utility>

#include "absl/time/time.h"
#include "base/random.h"

namespace vlm::sim {

class EventQueue {
 public:
  explicit EventQueue(uint64_t seed) : rng_(RngKey{seed}.Derive("simulation")) {}

  absl::Duration now() const { return now_; }
  // Equal due times run in the order of posting. `label` is a literal: it names the event in the trace.
  void After(absl::Duration delay, const char* label, std::function<void()> function) {
    events_.emplace(std::make_pair(now_ + delay, next_++), Event{label, std::move(function)});
  }
  // False when there is nothing left.
  bool RunOne() {
    if (events_.empty()) return false;
    auto first = events_.extract(events_.begin());
    now_ = first.key().first;
    Trace(first.mapped().label);
    Mix(static_cast<uint64_t>(absl::ToInt64Nanoseconds(now_)));
    ++count_;
    first.mapped().function();
    return true;
  }
  uint64_t count() const { return count_; }

  absl::Duration Between(absl::Duration low, absl::Duration high) { return low + (high - low) * rng_.Uniform(); }
  bool Chance(double probability) { return rng_.Uniform() < probability; }
  uint64_t Below(uint64_t bound) { return rng_.Below(bound); }
  uint64_t NextU64() { return rng_.NextU64(); }

  void Trace(std::string_view text) {
    for (const char c : text) hash_ = (hash_ ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;  // FNV-1a
  }
  void Mix(uint64_t word) { hash_ = Mix64(hash_ ^ word); }
  uint64_t hash() const { return hash_; }

 private:
  struct Event {
    const char* label;
    std::function<void()> function;
  };
  Rng rng_;
  absl::Duration now_ = absl::Seconds(1);
  uint64_t next_ = 0;
  uint64_t count_ = 0;
  uint64_t hash_ = 0xcbf29ce484222325ull;
  std::map<std::pair<absl::Duration, uint64_t>, Event> events_;
};

}  // namespace vlm::sim

#endif  // VLM_TESTS_SIM_EVENT_QUEUE_H_
