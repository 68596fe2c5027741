#include "train/collectives/tcp_collective.h"

#include <ATen/ATen.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "base/mutex.h"
#include "train/collectives/first_failure.h"
#include "train/collectives/operation.h"
#include "train/collectives/ordered_sum.h"

namespace vlm::train {
namespace {

struct Header {
  Operation operation;
  uint64_t payload_bytes = 0;
};

// One message each way with one peer.
struct Transfer {
  Header send_header, receive_header;
  const std::byte* send = nullptr;
  std::byte* receive = nullptr;  // where the payload goes; sized by `receive_capacity`
  uint64_t receive_capacity = 0;
  std::string* receive_string = nullptr;  // instead: sized by the header
  std::string abort_reason;               // of a peer that aborts instead of joining
  uint64_t sent = 0, received = 0;        // bytes of header and payload

  bool sending() const { return sent < sizeof(Header) + send_header.payload_bytes; }
  bool receiving() const {
    return received < sizeof(Header) || received < sizeof(Header) + receive_header.payload_bytes;
  }
};

constexpr uint64_t kBytesMessageMax = 64 << 20;  // of AllGatherBytes: headers and small facts, not tensors

class TcpCollective final : public Collective {
 public:
  TcpCollective(const MeshIdentity& identity, std::vector<UniqueFd> sockets, const CollectiveOptions& options)
      : rank_(identity.rank),
        world_(identity.world),
        sockets_(std::move(sockets)),
        options_(options),
        abort_event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        mid_message_(static_cast<size_t>(identity.world), false) {}

  int rank() const override { return rank_; }
  int world() const override { return world_; }
  uint64_t sequence() const override { return sequence_.load(std::memory_order_relaxed); }
  uint64_t bytes_communicated() const override { return bytes_.load(std::memory_order_relaxed); }
  absl::Status health() const override {
    VLM_RETURN_IF_ERROR(failure_.status());
    for (int peer = 0; peer < world_; ++peer) {
      pollfd entry = {sockets_[static_cast<size_t>(peer)].get(), POLLRDHUP, 0};  // this rank's own is -1: never ready
      if (poll(&entry, 1, 0) > 0) return absl::UnavailableError(absl::StrCat("rank ", peer, " is gone"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<at::Tensor> Allocate(int64_t numel, at::ScalarType type, std::string_view tag) override {
    std::vector<Transfer> transfers(static_cast<size_t>(world_));
    VLM_RETURN_IF_ERROR(
        Exchange(MakeOperation(0, OperationKind::kAllocate, numel, static_cast<uint32_t>(c10::elementSize(type)), tag),
                 &transfers));
    return at::zeros({numel}, at::TensorOptions().dtype(type));
  }

  absl::Status ReduceScatterAdd(const at::Tensor& send, bool contributes, at::Tensor accumulator,
                                std::string_view tag) override {
    const int64_t shard = accumulator.numel();
    if (send.scalar_type() != at::kFloat && send.scalar_type() != at::kBFloat16) {
      return absl::InvalidArgumentError("a reduce-scatter takes fp32 or bf16");
    }
    VLM_CHECK(send.is_contiguous() && send.numel() == shard * world_, "reduce-scatter of a wrong size");
    const ElementType type = send.scalar_type() == at::kFloat ? ElementType::kFloat32 : ElementType::kBfloat16;
    const uint64_t shard_bytes = static_cast<uint64_t>(shard) * send.element_size();
    const std::byte* const data = static_cast<const std::byte*>(send.data_ptr());
    received_.resize(shard_bytes * static_cast<size_t>(world_));
    std::vector<Transfer> transfers(static_cast<size_t>(world_));
    for (int peer = 0; peer < world_; ++peer) {
      Transfer& transfer = transfers[static_cast<size_t>(peer)];
      transfer.send = data + static_cast<uint64_t>(peer) * shard_bytes;
      transfer.send_header.payload_bytes = contributes ? shard_bytes : 0;
      transfer.receive = received_.data() + static_cast<uint64_t>(peer) * shard_bytes;
      transfer.receive_capacity = shard_bytes;
    }
    Operation operation = MakeOperation(0, OperationKind::kReduceScatterAdd, send.numel(),
                                        static_cast<uint32_t>(send.element_size()), tag);
    operation.contributes = contributes ? 1 : 0;
    VLM_RETURN_IF_ERROR(Exchange(operation, &transfers));
    std::vector<const std::byte*> sources;
    for (int peer = 0; peer < world_; ++peer) {
      const Transfer& transfer = transfers[static_cast<size_t>(peer)];
      if (peer == rank_) {
        if (contributes) sources.push_back(transfer.send);
      } else if (transfer.receive_header.operation.contributes != 0) {
        sources.push_back(transfer.receive);
      }
    }
    AddInOrder(accumulator.data_ptr<float>(), sources, type, shard);
    return absl::OkStatus();
  }

  absl::Status AllGather(const at::Tensor& shard, at::Tensor full, std::string_view tag) override {
    const uint64_t bytes = static_cast<uint64_t>(shard.numel()) * full.element_size();
    VLM_CHECK(full.is_contiguous() && shard.is_contiguous() && full.numel() == shard.numel() * world_,
              "all-gather of a wrong size");
    std::byte* const target = static_cast<std::byte*>(full.data_ptr());
    std::byte* const own = target + static_cast<uint64_t>(rank_) * bytes;
    if (shard.data_ptr() != own) std::memcpy(own, shard.data_ptr(), bytes);
    std::vector<Transfer> transfers(static_cast<size_t>(world_));
    for (int peer = 0; peer < world_; ++peer) {
      Transfer& transfer = transfers[static_cast<size_t>(peer)];
      transfer.send = own;
      transfer.send_header.payload_bytes = bytes;
      transfer.receive = target + static_cast<uint64_t>(peer) * bytes;
      transfer.receive_capacity = bytes;
    }
    return Exchange(
        MakeOperation(0, OperationKind::kAllGather, full.numel(), static_cast<uint32_t>(full.element_size()), tag),
        &transfers);
  }

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine, std::string_view tag) override {
    if (mine.size() > kBytesMessageMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("a gathered message is limited to 64 MiB, this one has ", mine.size()));
    }
    std::vector<std::string> all(static_cast<size_t>(world_));
    std::vector<Transfer> transfers(static_cast<size_t>(world_));
    for (int peer = 0; peer < world_; ++peer) {
      Transfer& transfer = transfers[static_cast<size_t>(peer)];
      transfer.send = reinterpret_cast<const std::byte*>(mine.data());
      transfer.send_header.payload_bytes = mine.size();
      transfer.receive_string = &all[static_cast<size_t>(peer)];
      transfer.receive_capacity = kBytesMessageMax;
    }
    VLM_RETURN_IF_ERROR(Exchange(MakeOperation(0, OperationKind::kAllGatherBytes, 0, 1, tag), &transfers));
    all[static_cast<size_t>(rank_)] = std::string(mine);
    return all;
  }

  absl::Status Barrier(std::string_view tag) override {
    std::vector<Transfer> transfers(static_cast<size_t>(world_));
    return Exchange(MakeOperation(0, OperationKind::kBarrier, 0, 0, tag), &transfers);
  }

  void Abort(std::string_view reason) override {
    failure_.Set(
        absl::AbortedError(absl::StrCat("collective aborted: ", absl::string_view(reason.data(), reason.size()))));
    // Peers read the reason or see the closed connection; our own poll wakes by the event.
    MutexLock lock(&send_mutex_);
    for (int peer = 0; !aborted_ && peer < world_; ++peer) {
      const int fd = sockets_[static_cast<size_t>(peer)].get();
      if (fd < 0) continue;
      if (!mid_message_[static_cast<size_t>(peer)]) SendReason(fd, reason.substr(0, kAbortReasonBytesMax));
      shutdown(fd, SHUT_RDWR);
    }
    aborted_ = true;
    const uint64_t one = 1;
    (void)!write(abort_event_.get(), &one, sizeof(one));
  }

 private:
  // As far as the socket takes it: nobody waits for a peer on the way out.
  static void SendReason(int fd, std::string_view reason) {
    Header header;
    header.operation = MakeOperation(0, OperationKind::kAbort, 0, 1, "");
    header.payload_bytes = reason.size();
    std::string message(reinterpret_cast<const char*>(&header), sizeof(header));
    message += reason;
    (void)!send(fd, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  // Sends and receives one message per peer, all at once, so no order of peers can deadlock.
  absl::Status Exchange(Operation operation, std::vector<Transfer>* transfers) {
    VLM_RETURN_IF_ERROR(failure_.status());
    operation.sequence = sequence_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (operation.kind == OperationKind::kReduceScatterAdd) CrashPoint("reduction.entered");
    for (Transfer& transfer : *transfers) transfer.send_header.operation = operation;
    const absl::Duration end = options_.clock->Monotonic() + options_.deadline;
    std::vector<pollfd> entries;
    std::vector<int> peers;
    while (true) {
      entries.assign(1, {abort_event_.get(), POLLIN, 0});
      peers.assign(1, rank_);
      for (int peer = 0; peer < world_; ++peer) {
        const Transfer& transfer = (*transfers)[static_cast<size_t>(peer)];
        const short events =
            static_cast<short>((transfer.sending() ? POLLOUT : 0) | (transfer.receiving() ? POLLIN : 0));
        if (peer == rank_ || events == 0) continue;
        entries.push_back({sockets_[static_cast<size_t>(peer)].get(), events, 0});
        peers.push_back(peer);
      }
      if (entries.size() == 1) return absl::OkStatus();
      const absl::Duration left = end - options_.clock->Monotonic();
      if (left <= absl::ZeroDuration()) {
        return Fail(absl::DeadlineExceededError(absl::StrCat("rank ", peers.back(), " did not join within ",
                                                             absl::FormatDuration(options_.deadline), ": ",
                                                             DescribeOperation(operation))));
      }
      if (poll(entries.data(), entries.size(), static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) < 0) continue;
      if (entries[0].revents != 0) return failure_.status();
      absl::Status ended;  // who aborts says more than who leaves because of it
      for (size_t i = 1; i < entries.size(); ++i) {
        if (entries[i].revents == 0) continue;
        const absl::Status status = Advance(peers[i], operation, &(*transfers)[static_cast<size_t>(peers[i])]);
        if (!status.ok() && (ended.ok() || absl::IsAborted(status))) ended = status;
      }
      if (!ended.ok()) return Fail(ended);
    }
  }

  // Moves as many bytes as the socket takes and gives.
  absl::Status Advance(int peer, const Operation& operation, Transfer* transfer) {
    const bool gone = !SendMore(peer, transfer);  // what the peer said before it left is read first
    VLM_RETURN_IF_ERROR(ReceiveMore(peer, operation, transfer));
    return gone ? Gone(peer, operation, *transfer) : absl::OkStatus();
  }

  // False when the peer takes nothing any more.
  bool SendMore(int peer, Transfer* transfer) {
    MutexLock lock(&send_mutex_);
    while (transfer->sending()) {
      if (aborted_) return false;
      iovec parts[2];
      int count = 0;
      if (transfer->sent < sizeof(Header)) {
        parts[count++] = {reinterpret_cast<char*>(&transfer->send_header) + transfer->sent,
                          sizeof(Header) - transfer->sent};
      }
      const uint64_t payload_sent = transfer->sent < sizeof(Header) ? 0 : transfer->sent - sizeof(Header);
      if (transfer->send_header.payload_bytes > payload_sent) {
        parts[count++] = {const_cast<std::byte*>(transfer->send) + payload_sent,
                          transfer->send_header.payload_bytes - payload_sent};
      }
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = static_cast<size_t>(count);
      const ssize_t sent = sendmsg(sockets_[static_cast<size_t>(peer)].get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      transfer->sent += static_cast<uint64_t>(sent);
      mid_message_[static_cast<size_t>(peer)] = transfer->sending();
    }
    return true;
  }

  absl::Status ReceiveMore(int peer, const Operation& operation, Transfer* transfer) {
    while (transfer->receiving()) {
      const bool in_header = transfer->received < sizeof(Header);
      std::byte* const target = in_header ? reinterpret_cast<std::byte*>(&transfer->receive_header) + transfer->received
                                          : transfer->receive + (transfer->received - sizeof(Header));
      const uint64_t wanted =
          (in_header ? sizeof(Header) : sizeof(Header) + transfer->receive_header.payload_bytes) - transfer->received;
      const ssize_t received = recv(sockets_[static_cast<size_t>(peer)].get(), target, wanted, MSG_DONTWAIT);
      if (received < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
      if (received <= 0) return Gone(peer, operation, *transfer);
      transfer->received += static_cast<uint64_t>(received);
      if (!in_header) bytes_.fetch_add(static_cast<uint64_t>(received), std::memory_order_relaxed);
      if (transfer->received == sizeof(Header)) VLM_RETURN_IF_ERROR(AcceptHeader(peer, operation, transfer));
    }
    if (transfer->receive_header.operation.kind != OperationKind::kAbort) return absl::OkStatus();
    return AbortedByPeer(peer, transfer->abort_reason);
  }

  absl::Status AcceptHeader(int peer, const Operation& operation, Transfer* transfer) {
    if (transfer->receive_header.operation.kind == OperationKind::kAbort) {
      transfer->receive_string = &transfer->abort_reason;
      transfer->receive_capacity = kAbortReasonBytesMax;
    } else {
      VLM_RETURN_IF_ERROR(CheckSameOperation(rank_, operation, peer, transfer->receive_header.operation));
    }
    const uint64_t bytes = transfer->receive_header.payload_bytes;
    if (bytes > transfer->receive_capacity) {
      return absl::FailedPreconditionError(absl::StrCat("rank ", peer, " sends ", bytes, " bytes where at most ",
                                                        transfer->receive_capacity,
                                                        " fit: ", DescribeOperation(operation)));
    }
    if (transfer->receive_string != nullptr) {
      transfer->receive_string->resize(bytes);
      transfer->receive = reinterpret_cast<std::byte*>(transfer->receive_string->data());
    }
    return absl::OkStatus();
  }

  absl::Status Gone(int peer, const Operation& operation, const Transfer& transfer) {
    VLM_RETURN_IF_ERROR(failure_.status());  // our own Abort closed the sockets
    if (!transfer.receiving()) {             // it had said its part, so what follows can only be an abort
      Transfer next;
      VLM_RETURN_IF_ERROR(ReceiveMore(peer, operation, &next));
    }
    return absl::UnavailableError(absl::StrCat("rank ", peer, " is gone, in ", DescribeOperation(operation)));
  }

  absl::Status Fail(const absl::Status& status) {
    failure_.Set(status);
    return status;
  }

  const int rank_, world_;
  const std::vector<UniqueFd> sockets_;
  const CollectiveOptions options_;
  const UniqueFd abort_event_;
  std::vector<std::byte> received_;                             // contributions of the peers, kept between calls
  Mutex send_mutex_;                                            // a reason must not fall into a message
  std::vector<bool> mid_message_ ABSL_GUARDED_BY(send_mutex_);  // by peer: a part of a message is sent
  bool aborted_ ABSL_GUARDED_BY(send_mutex_) = false;
  std::atomic<uint64_t> sequence_{0}, bytes_{0};
  FirstFailure failure_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> NewTcpCollective(const MeshIdentity& identity,
                                                             std::vector<UniqueFd> sockets,
                                                             const CollectiveOptions& options) {
  return std::unique_ptr<Collective>(std::make_unique<TcpCollective>(identity, std::move(sockets), options));
}

}  // namespace vlm::train
