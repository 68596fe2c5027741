// Ranks as threads of one process: the collective of tests. Sums in rank order, checks that ranks agree.
#ifndef VLM_TESTS_UNIT_TRAIN_THREAD_COLLECTIVE_H_
#define VLM_TESTS_UNIT_TRAIN_THREAD_COLLECTIVE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "train/collective.h"

namespace vlm::train {

// What the ranks of one gang share.
class ThreadGang {
 public:
  explicit ThreadGang(int world);
  ~ThreadGang();
  std::unique_ptr<Collective> Rank(int rank);
  int world() const { return world_; }

 private:
  friend class ThreadCollective;
  struct Call {
    std::string operation, tag;
    at::Tensor tensor;
    bool contributes = true;
    std::string bytes;
  };
  // Posts a rank's call, waits for the others', runs `read` over all calls, waits until all have read.
  absl::Status Exchange(int rank, Call call, const std::function<void(const std::vector<Call>&)>& read);
  absl::Status Arrive() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int world_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<Call> calls_ ABSL_GUARDED_BY(mutex_);
  int arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status aborted_ ABSL_GUARDED_BY(mutex_);
};

// Runs `body` as every rank of a gang, each on a thread of its own, and joins them.
void RunRanks(int world, const std::function<void(Collective*)>& body);

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_TRAIN_THREAD_COLLECTIVE_H_
