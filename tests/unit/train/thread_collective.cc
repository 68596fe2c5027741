#include "thread_collective.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <atomic>
#include <thread>

namespace vlm::train {

class ThreadCollective final : public Collective {
 public:
  ThreadCollective(ThreadGang* gang, int rank) : gang_(gang), rank_(rank) {}
  int rank() const override { return rank_; }
  int world() const override { return gang_->world(); }

  absl::StatusOr<at::Tensor> Allocate(int64_t numel, at::ScalarType type, std::string_view tag) override {
    VLM_RETURN_IF_ERROR(Do({"Allocate " + std::to_string(numel), std::string(tag), {}, true, {}}, [](const auto&) {}));
    return at::zeros({numel}, at::TensorOptions().dtype(type));
  }

  absl::Status ReduceScatterAdd(const at::Tensor& send, bool contributes, at::Tensor accumulator,
                                std::string_view tag) override {
    const int64_t numel = accumulator.numel();
    bytes_ += static_cast<uint64_t>(numel * (world() - 1)) * (send.defined() ? send.element_size() : 4);
    return Do({"ReduceScatterAdd " + std::to_string(numel), std::string(tag), send, contributes, {}},
              [&](const auto& calls) {
                for (const auto& call : calls) {
                  if (call.contributes) accumulator.add_(call.tensor.narrow(0, rank_ * numel, numel));
                }
              });
  }

  absl::Status AllGather(const at::Tensor& shard, at::Tensor full, std::string_view tag) override {
    const int64_t numel = shard.numel();
    bytes_ += static_cast<uint64_t>(numel * (world() - 1)) * shard.element_size();
    const at::Tensor memory = full.variable_data();  // its own version counter, as raw writes need none
    return Do({"AllGather " + std::to_string(numel), std::string(tag), shard, true, {}}, [&](const auto& calls) {
      for (int peer = 0; peer < world(); ++peer) {
        if (peer != rank_) {
          memory.narrow(0, peer * numel, numel).copy_(calls[peer].tensor);
        } else if (shard.data_ptr() != memory.narrow(0, peer * numel, numel).data_ptr()) {
          memory.narrow(0, peer * numel, numel).copy_(shard);
        }
      }
    });
  }

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine, std::string_view tag) override {
    std::vector<std::string> all;
    VLM_RETURN_IF_ERROR(Do({"AllGatherBytes", std::string(tag), {}, true, std::string(mine)}, [&](const auto& calls) {
      for (const auto& call : calls) all.push_back(call.bytes);
    }));
    return all;
  }

  absl::Status Barrier(std::string_view tag) override {
    return Do({"Barrier", std::string(tag), {}, true, {}}, [](const auto&) {});
  }

  void Abort(std::string_view reason) override {
    MutexLock lock(&gang_->mutex_);
    if (gang_->aborted_.ok()) gang_->aborted_ = absl::AbortedError("aborted: " + std::string(reason));
    gang_->changed_.NotifyAll();
  }
  uint64_t sequence() const override { return sequence_; }
  uint64_t bytes_communicated() const override { return bytes_; }

 private:
  absl::Status Do(ThreadGang::Call call, const std::function<void(const std::vector<ThreadGang::Call>&)>& read) {
    at::NoGradGuard no_grad;
    ++sequence_;
    return gang_->Exchange(rank_, std::move(call), read);
  }

  ThreadGang* const gang_;
  const int rank_;
  std::atomic<uint64_t> sequence_{0}, bytes_{0};
};

ThreadGang::ThreadGang(int world) : world_(world), calls_(world) {}
ThreadGang::~ThreadGang() = default;

std::unique_ptr<Collective> ThreadGang::Rank(int rank) { return std::make_unique<ThreadCollective>(this, rank); }

absl::Status ThreadGang::Arrive() {
  const uint64_t generation = generation_;
  if (++arrived_ == world_) {
    arrived_ = 0;
    ++generation_;
    changed_.NotifyAll();
  }
  while (generation_ == generation && aborted_.ok()) changed_.Wait(&mutex_);
  return aborted_;
}

absl::Status ThreadGang::Exchange(int rank, Call call, const std::function<void(const std::vector<Call>&)>& read) {
  std::vector<Call> calls;
  {
    MutexLock lock(&mutex_);
    calls_[rank] = std::move(call);
    VLM_RETURN_IF_ERROR(Arrive());
    calls = calls_;
  }
  for (const Call& other : calls) {
    if (other.operation == calls[0].operation && other.tag == calls[0].tag) continue;
    return absl::FailedPreconditionError("ranks disagree: " + calls[0].operation + " of " + calls[0].tag + " against " +
                                         other.operation + " of " + other.tag);
  }
  read(calls);
  MutexLock lock(&mutex_);
  return Arrive();
}

void RunRanks(int world, const std::function<void(Collective*)>& body) {
  ThreadGang gang(world);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&gang, &body, rank] {
      const std::unique_ptr<Collective> collective = gang.Rank(rank);
      body(collective.get());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace vlm::train
