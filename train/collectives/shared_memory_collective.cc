#include "train/collectives/shared_memory_collective.h"

#include <ATen/ATen.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "train/collectives/first_failure.h"
#include "train/collectives/operation.h"
#include "train/collectives/ordered_sum.h"
#include "train/collectives/shared_segment.h"

namespace vlm::train {
namespace {

constexpr size_t kStagingBytes = 4 << 20;  // per rank; larger unshared buffers go through it in pieces
constexpr size_t kLine = 128;              // two cache lines: the prefetcher pulls pairs

// One rank's page in shared memory. Only its owner writes, but for `aborted_by` and `changes`.
struct ControlPage {
  alignas(kLine) std::atomic<uint64_t> arrived;     // operations entered
  alignas(kLine) std::atomic<uint64_t> finished;    // operations whose peer buffers are no longer read
  alignas(kLine) std::atomic<uint32_t> changes;     // futex: +1 whenever any rank's progress or `aborted_by` changes
  alignas(kLine) std::atomic<uint32_t> aborted_by;  // rank + 1 of the first to abort; its page holds the reason
  alignas(kLine) Operation operation;               // of `arrived`
  alignas(kLine) uint32_t reason_bytes;             // written once, before any `aborted_by` names this rank
  char reason[kAbortReasonBytesMax];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

void FutexWait(std::atomic<uint32_t>* word, uint32_t seen, absl::Duration timeout) {
  const timespec time = absl::ToTimespec(std::max(timeout, absl::ZeroDuration()));
  syscall(SYS_futex, word, FUTEX_WAIT, seen, &time, nullptr, 0);
}
void FutexWakeAll(std::atomic<uint32_t>* word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0); }

absl::StatusOr<ElementType> ElementTypeOf(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat) return ElementType::kFloat32;
  if (tensor.scalar_type() == at::kBFloat16) return ElementType::kBfloat16;
  return absl::InvalidArgumentError("a reduce-scatter takes fp32 or bf16");
}

class SharedMemoryCollective final : public Collective {
 public:
  SharedMemoryCollective(const MeshIdentity& identity, std::vector<UniqueFd> sockets, const CollectiveOptions& options)
      : rank_(identity.rank), world_(identity.world), sockets_(std::move(sockets)), options_(options) {}

  absl::Status Init() {
    VLM_ASSIGN_OR_RETURN(control_, SharedSegment::Exchange(rank_, sockets_, sizeof(ControlPage), Waiting()));
    VLM_ASSIGN_OR_RETURN(staging_, SharedSegment::Exchange(rank_, sockets_, kStagingBytes, Waiting()));
    stop_watching_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
    watcher_ = std::thread([this] { WatchPeers(); });
    return absl::OkStatus();
  }

  ~SharedMemoryCollective() override {
    if (!watcher_.joinable()) return;
    const uint64_t one = 1;
    (void)!write(stop_watching_.get(), &one, sizeof(one));
    watcher_.join();
  }

  int rank() const override { return rank_; }
  int world() const override { return world_; }
  uint64_t sequence() const override { return sequence_.load(std::memory_order_relaxed); }
  uint64_t bytes_communicated() const override { return bytes_.load(std::memory_order_relaxed); }
  absl::Status health() const override {
    VLM_RETURN_IF_ERROR(failure_.status());
    const int dead = dead_peer_.load();  // before `aborted_by`: who aborts and leaves is seen to have aborted
    VLM_RETURN_IF_ERROR(PeersAbort());
    return dead < 0 ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("rank ", dead, " is gone"));
  }

  absl::StatusOr<at::Tensor> Allocate(int64_t numel, at::ScalarType type, std::string_view tag) override {
    const size_t bytes = static_cast<size_t>(numel) * c10::elementSize(type);
    VLM_RETURN_IF_ERROR(
        Run(MakeOperation(0, OperationKind::kAllocate, numel, static_cast<uint32_t>(c10::elementSize(type)), tag),
            [] { return absl::OkStatus(); }));
    VLM_ASSIGN_OR_RETURN(std::shared_ptr<SharedSegment> segment,
                         SharedSegment::Exchange(rank_, sockets_, std::max<size_t>(bytes, 1), Waiting()));
    segments_.push_back(segment);
    // The tensor keeps the mapping alive, should it outlive this object.
    return at::from_blob(segment->of(rank_), {numel}, [segment](void*) {}, at::TensorOptions().dtype(type));
  }

  absl::Status ReduceScatterAdd(const at::Tensor& send, bool contributes, at::Tensor accumulator,
                                std::string_view tag) override {
    const int64_t shard = accumulator.numel();
    VLM_ASSIGN_OR_RETURN(const ElementType type, ElementTypeOf(send));
    VLM_CHECK(send.is_contiguous() && send.numel() == shard * world_, "reduce-scatter of a wrong size");
    const uint32_t element = type == ElementType::kFloat32 ? 4 : 2;
    Operation operation = MakeOperation(0, OperationKind::kReduceScatterAdd, shard * world_, element, tag);
    operation.contributes = contributes ? 1 : 0;
    Locate(send, &operation);
    float* const sum = accumulator.data_ptr<float>();
    if (operation.segment >= 0) {
      return Run(operation, [&] {
        AddContributions(*segments_[static_cast<size_t>(operation.segment)], operation.segment_offset, sum, type,
                         shard);
        return absl::OkStatus();
      });
    }
    // Through staging: pieces of each shard, so that a piece of every shard fits.
    const int64_t piece_max = static_cast<int64_t>(kStagingBytes / element) / world_;
    for (int64_t begin = 0; begin < shard; begin += piece_max) {
      const int64_t piece = std::min(piece_max, shard - begin);
      operation.numel = piece * world_;
      for (int owner = 0; contributes && owner < world_; ++owner) {
        std::memcpy(staging_->of(rank_) + owner * piece * element,
                    static_cast<const std::byte*>(send.data_ptr()) + (owner * shard + begin) * element,
                    static_cast<size_t>(piece) * element);
      }
      VLM_RETURN_IF_ERROR(Run(operation, [&] {
        AddContributions(*staging_, 0, sum + begin, type, piece);
        return absl::OkStatus();
      }));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(const at::Tensor& shard, at::Tensor full, std::string_view tag) override {
    const int64_t element = static_cast<int64_t>(full.element_size());
    const int64_t bytes = shard.numel() * element;
    VLM_CHECK(full.is_contiguous() && shard.is_contiguous() && full.numel() == shard.numel() * world_,
              "all-gather of a wrong size");
    std::byte* const target = static_cast<std::byte*>(full.data_ptr());
    const std::byte* const source = static_cast<const std::byte*>(shard.data_ptr());
    if (source != target + rank_ * bytes) std::memcpy(target + rank_ * bytes, source, static_cast<size_t>(bytes));
    Operation operation =
        MakeOperation(0, OperationKind::kAllGather, full.numel(), static_cast<uint32_t>(element), tag);
    // Peers read where the shard lies: at its place in a shared whole, else in a shared buffer of its own.
    Locate(full, &operation);
    const bool in_whole = operation.segment >= 0;
    if (!in_whole && IsWholeSegment(shard)) Locate(shard, &operation);
    if (operation.segment >= 0) {
      const SharedSegment& segment = *segments_[static_cast<size_t>(operation.segment)];
      return Run(operation, [&] {
        CopyFromPeers(
            bytes,
            [&](int peer) { return segment.of(peer) + operation.segment_offset + (in_whole ? peer * bytes : 0); },
            [&](int peer) { return target + peer * bytes; });
        return absl::OkStatus();
      });
    }
    for (int64_t begin = 0; begin < bytes; begin += kStagingBytes) {
      const int64_t piece = std::min<int64_t>(kStagingBytes, bytes - begin);
      std::memcpy(staging_->of(rank_), target + rank_ * bytes + begin, static_cast<size_t>(piece));
      VLM_RETURN_IF_ERROR(Run(operation, [&] {
        CopyFromPeers(
            piece, [&](int peer) { return staging_->of(peer); },
            [&](int peer) { return target + peer * bytes + begin; });
        return absl::OkStatus();
      }));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine, std::string_view tag) override {
    std::vector<std::string> all(static_cast<size_t>(world_));
    int64_t longest = 0;
    for (int64_t begin = 0; begin == 0 || begin < longest; begin += kStagingBytes) {
      const size_t piece = static_cast<size_t>(begin) >= mine.size()
                               ? 0
                               : std::min(kStagingBytes, mine.size() - static_cast<size_t>(begin));
      std::memcpy(staging_->of(rank_), mine.data() + std::min(static_cast<size_t>(begin), mine.size()), piece);
      const Operation operation =
          MakeOperation(0, OperationKind::kAllGatherBytes, static_cast<int64_t>(mine.size()), 1, tag);
      VLM_RETURN_IF_ERROR(Run(operation, [&] {
        for (int peer = 0; peer < world_; ++peer) {
          const int64_t length = Control(peer)->operation.numel;
          longest = std::max(longest, length);
          const int64_t part = std::clamp<int64_t>(length - begin, 0, kStagingBytes);
          all[static_cast<size_t>(peer)].append(reinterpret_cast<const char*>(staging_->of(peer)),
                                                static_cast<size_t>(part));
        }
        return absl::OkStatus();
      }));
    }
    return all;
  }

  absl::Status Barrier(std::string_view tag) override {
    return Run(MakeOperation(0, OperationKind::kBarrier, 0, 0, tag), [] { return absl::OkStatus(); });
  }

  void Abort(std::string_view reason) override {
    failure_.Set(
        absl::AbortedError(absl::StrCat("collective aborted: ", absl::string_view(reason.data(), reason.size()))));
    if (abort_told_.exchange(true)) return;
    ControlPage* const mine = Control(rank_);
    mine->reason_bytes = static_cast<uint32_t>(std::min(reason.size(), kAbortReasonBytesMax));
    std::memcpy(mine->reason, reason.data(), mine->reason_bytes);
    for (int peer = 0; peer < world_; ++peer) {
      uint32_t nobody = 0;
      Control(peer)->aborted_by.compare_exchange_strong(nobody, static_cast<uint32_t>(rank_) + 1);
    }
    NotifyAll();
  }

 private:
  Patience Waiting() const { return {options_.deadline, options_.clock}; }
  ControlPage* Control(int rank) const { return reinterpret_cast<ControlPage*>(control_->of(rank)); }

  // ABORTED with the reason of the rank that aborted, else OK.
  absl::Status PeersAbort() const {
    const uint32_t by = Control(rank_)->aborted_by.load(std::memory_order_acquire);
    if (by == 0) return absl::OkStatus();
    const ControlPage& page = *Control(static_cast<int>(by) - 1);
    return AbortedByPeer(static_cast<int>(by) - 1,
                         {page.reason, std::min<size_t>(page.reason_bytes, kAbortReasonBytesMax)});
  }

  // Enters the operation, waits until every peer has, checks that it is the same, lets `body` read the peers'
  // memory, and waits until every peer has read ours.
  absl::Status Run(Operation operation, const std::function<absl::Status()>& body) {
    VLM_RETURN_IF_ERROR(failure_.status());
    const uint64_t sequence = sequence_.load(std::memory_order_relaxed) + 1;
    sequence_.store(sequence, std::memory_order_relaxed);
    operation.sequence = sequence;
    ControlPage* const mine = Control(rank_);
    mine->operation = operation;
    mine->arrived.store(sequence, std::memory_order_release);
    NotifyAll();
    if (operation.kind == OperationKind::kReduceScatterAdd) CrashPoint("reduction.entered");
    VLM_RETURN_IF_ERROR(WaitForPeers(&ControlPage::arrived, operation));
    for (int peer = 0; peer < world_; ++peer) {
      const absl::Status same = CheckSameOperation(rank_, operation, peer, Control(peer)->operation);
      if (!same.ok()) return Fail(same);
    }
    VLM_RETURN_IF_ERROR(body());
    mine->finished.store(sequence, std::memory_order_release);
    NotifyAll();
    return WaitForPeers(&ControlPage::finished, operation);
  }

  absl::Status WaitForPeers(std::atomic<uint64_t> ControlPage::* progress, const Operation& operation) {
    const absl::Duration end = options_.clock->Monotonic() + options_.deadline;
    ControlPage* const mine = Control(rank_);
    for (int spin = 0;; ++spin) {
      const uint32_t seen = mine->changes.load(std::memory_order_acquire);
      int waiting_for = -1;
      for (int peer = 0; peer < world_ && waiting_for < 0; ++peer) {
        if ((Control(peer)->*progress).load(std::memory_order_acquire) < operation.sequence) waiting_for = peer;
      }
      if (waiting_for < 0) return absl::OkStatus();
      const int dead = dead_peer_.load();  // before `aborted_by`: who aborts and leaves is seen to have aborted
      VLM_RETURN_IF_ERROR(failure_.status());
      if (const absl::Status aborted = PeersAbort(); !aborted.ok()) return Fail(aborted);
      if (dead >= 0) {
        return Fail(absl::UnavailableError(absl::StrCat("rank ", dead, " is gone, in ", DescribeOperation(operation))));
      }
      const absl::Duration left = end - options_.clock->Monotonic();
      if (left <= absl::ZeroDuration()) {
        return Fail(absl::DeadlineExceededError(absl::StrCat("rank ", waiting_for, " did not join within ",
                                                             absl::FormatDuration(options_.deadline), ": ",
                                                             DescribeOperation(operation))));
      }
      if (spin >= options_.spins) FutexWait(&mine->changes, seen, left);
    }
  }

  // Every rank waits on its own word, so a wake touches one cache line per rank.
  void NotifyAll() {
    for (int peer = 0; peer < world_; ++peer) {
      Control(peer)->changes.fetch_add(1, std::memory_order_acq_rel);
      FutexWakeAll(&Control(peer)->changes);
    }
  }

  void AddContributions(const SharedSegment& segment, int64_t offset, float* sum, ElementType type, int64_t shard) {
    const int64_t element = type == ElementType::kFloat32 ? 4 : 2;
    std::vector<const std::byte*> sources;
    for (int peer = 0; peer < world_; ++peer) {
      if (Control(peer)->operation.contributes == 0) continue;
      sources.push_back(segment.of(peer) + offset + rank_ * shard * element);
      if (peer != rank_) bytes_.fetch_add(static_cast<uint64_t>(shard * element), std::memory_order_relaxed);
    }
    AddInOrder(sum, sources, type, shard);
  }

  void CopyFromPeers(int64_t bytes, const std::function<const std::byte*(int)>& source,
                     const std::function<std::byte*(int)>& target) {
    for (int step = 1; step < world_; ++step) {  // start with different peers: less contention on one's memory
      const int peer = (rank_ + step) % world_;
      std::memcpy(target(peer), source(peer), static_cast<size_t>(bytes));
      bytes_.fetch_add(static_cast<uint64_t>(bytes), std::memory_order_relaxed);
    }
  }

  // Fills segment and offset when the tensor lies in memory from Allocate.
  void Locate(const at::Tensor& tensor, Operation* operation) const {
    const std::byte* const data = static_cast<const std::byte*>(tensor.data_ptr());
    for (size_t i = 0; i < segments_.size(); ++i) {
      const std::byte* const begin = segments_[i]->of(rank_);
      if (data >= begin && data < begin + segments_[i]->bytes()) {
        operation->segment = static_cast<int32_t>(i);
        operation->segment_offset = data - begin;
        return;
      }
    }
  }

  // A part of allocated memory lies at another offset on each rank, and is a shard of something else.
  bool IsWholeSegment(const at::Tensor& tensor) const {
    return std::any_of(segments_.begin(), segments_.end(), [&](const std::shared_ptr<SharedSegment>& segment) {
      return tensor.data_ptr() == segment->of(rank_) && tensor.nbytes() == segment->bytes();
    });
  }

  // Peers send nothing after the exchange of memory, so readable means closed.
  void WatchPeers() {
    std::vector<pollfd> entries = {{stop_watching_.get(), POLLIN, 0}};
    std::vector<int> peers = {-1};
    for (int peer = 0; peer < world_; ++peer) {
      if (peer == rank_) continue;
      entries.push_back({sockets_[static_cast<size_t>(peer)].get(), POLLRDHUP, 0});
      peers.push_back(peer);
    }
    while (true) {
      if (poll(entries.data(), entries.size(), -1) < 0) continue;
      if (entries[0].revents != 0) return;
      for (size_t i = 1; i < entries.size(); ++i) {
        if ((entries[i].revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0) continue;
        int none = -1;
        dead_peer_.compare_exchange_strong(none, peers[i]);
        entries[i].fd = -1;
        Control(rank_)->changes.fetch_add(1);
        FutexWakeAll(&Control(rank_)->changes);
      }
    }
  }

  absl::Status Fail(const absl::Status& status) {
    failure_.Set(status);
    return status;
  }

  const int rank_, world_;
  const std::vector<UniqueFd> sockets_;
  const CollectiveOptions options_;
  std::shared_ptr<SharedSegment> control_, staging_;
  std::vector<std::shared_ptr<SharedSegment>> segments_;
  std::atomic<uint64_t> sequence_{0}, bytes_{0};
  std::atomic<int> dead_peer_{-1};
  std::atomic<bool> abort_told_{false};
  FirstFailure failure_;
  UniqueFd stop_watching_;
  std::thread watcher_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> NewSharedMemoryCollective(const MeshIdentity& identity,
                                                                      std::vector<UniqueFd> sockets,
                                                                      const CollectiveOptions& options) {
  auto collective = std::make_unique<SharedMemoryCollective>(identity, std::move(sockets), options);
  VLM_RETURN_IF_ERROR(collective->Init());
  return std::unique_ptr<Collective>(std::move(collective));
}

}  // namespace vlm::train
