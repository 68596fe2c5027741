// The NCCL backend: a shared object of its own, entered by vlm_train_nccl_backend. What LibTorch throws stays inside.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "train/collectives/operation.h"
#include "train/cuda/nccl_communicator.h"
#include "train/cuda/nccl_entry.h"
#include "train/torch_edge.h"

namespace vlm::train {
namespace {

// Only moved as bytes, but for the sums, which ATen makes.
ncclResult_t SendBytes(const void* from, int64_t bytes, int peer, ncclComm_t communicator, cudaStream_t stream) {
  return ncclSend(from, static_cast<size_t>(bytes), ncclInt8, peer, communicator, stream);
}
ncclResult_t ReceiveBytes(void* to, int64_t bytes, int peer, ncclComm_t communicator, cudaStream_t stream) {
  return ncclRecv(to, static_cast<size_t>(bytes), ncclInt8, peer, communicator, stream);
}

class NcclCollective final : public Collective {
 public:
  NcclCollective(const NcclOptions& options, const ncclUniqueId& id, std::unique_ptr<Collective> host)
      : host_(std::move(host)),
        device_(at::kCUDA, static_cast<c10::DeviceIndex>(options.device)),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device_.index())),
        communicator_(
            {host_->rank(), host_->world(), id, options.deadline, options.clock, [this] { return host_->health(); }}) {}

  ~NcclCollective() override {
    if (event_ != nullptr) (void)cudaEventDestroy(event_);
  }

  absl::Status Init() {
    const c10::cuda::CUDAGuard device(device_);
    VLM_RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "create an event"));
    return communicator_.Connect();
  }

  int rank() const override { return host_->rank(); }
  int world() const override { return host_->world(); }
  uint64_t sequence() const override { return sequence_.load(std::memory_order_relaxed); }
  uint64_t bytes_communicated() const override {
    return bytes_.load(std::memory_order_relaxed) + host_->bytes_communicated();
  }
  absl::Status health() const override {
    VLM_RETURN_IF_ERROR(communicator_.status());
    return host_->health();
  }

  absl::StatusOr<at::Tensor> Allocate(int64_t numel, at::ScalarType type, std::string_view tag) override {
    VLM_RETURN_IF_ERROR(Agree(OperationKind::kAllocate, numel, type, true, tag).status());
    return CatchTorch("allocation on the device", [&]() -> absl::StatusOr<at::Tensor> {
      return at::zeros({numel}, at::TensorOptions().dtype(type).device(device_));
    });
  }

  absl::Status ReduceScatterAdd(const at::Tensor& send, bool contributes, at::Tensor accumulator,
                                std::string_view tag) override {
    VLM_RETURN_IF_ERROR(CheckTensor("send", send));
    VLM_RETURN_IF_ERROR(CheckTensor("accumulator", accumulator));
    if (send.scalar_type() != at::kFloat && send.scalar_type() != at::kBFloat16) {
      return absl::InvalidArgumentError("a reduce-scatter takes fp32 or bf16");
    }
    VLM_CHECK(send.numel() == accumulator.numel() * world(), "reduce-scatter of a wrong size");
    VLM_ASSIGN_OR_RETURN(const Agreement agreed,
                         Agree(OperationKind::kReduceScatterAdd, send.numel(), send.scalar_type(), contributes, tag));
    return OnDevice(agreed.what, [&] { return AddContributions(send, agreed, accumulator); });
  }

  absl::Status AllGather(const at::Tensor& shard, at::Tensor full, std::string_view tag) override {
    VLM_RETURN_IF_ERROR(CheckTensor("shard", shard));
    VLM_RETURN_IF_ERROR(CheckTensor("full", full));
    VLM_CHECK(full.numel() == shard.numel() * world() && full.scalar_type() == shard.scalar_type(),
              "all-gather of a wrong size");
    VLM_ASSIGN_OR_RETURN(const Agreement agreed,
                         Agree(OperationKind::kAllGather, full.numel(), full.scalar_type(), true, tag));
    const size_t bytes = shard.nbytes();
    bytes_.fetch_add(bytes * static_cast<size_t>(world() - 1), std::memory_order_relaxed);
    return OnDevice(agreed.what, [&] {
      return communicator_.Start(agreed.what, [&](ncclComm_t communicator) {
        return ncclAllGather(shard.const_data_ptr(), full.mutable_data_ptr(), bytes, ncclInt8, communicator,
                             stream_.stream());
      });
    });
  }

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine, std::string_view tag) override {
    VLM_RETURN_IF_ERROR(communicator_.status());
    sequence_.fetch_add(1, std::memory_order_relaxed);
    return host_->AllGatherBytes(mine, tag);
  }

  absl::Status Barrier(std::string_view tag) override {
    VLM_RETURN_IF_ERROR(communicator_.status());
    sequence_.fetch_add(1, std::memory_order_relaxed);
    return host_->Barrier(tag);
  }

  // The host side tells the peers: those that wait on their device look at its health.
  void Abort(std::string_view reason) override {
    communicator_.Interrupt(
        absl::AbortedError(absl::StrCat("collective aborted: ", absl::string_view(reason.data(), reason.size()))));
    host_->Abort(reason);
  }

 private:
  struct Agreement {
    std::string what;               // the operation, for errors
    std::vector<bool> contributes;  // by rank
  };

  absl::Status CheckTensor(const char* name, const at::Tensor& tensor) const {
    if (tensor.device() == device_ && tensor.is_contiguous()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("NCCL moves contiguous tensors of its own device: ", name,
                                                   " lies on ", tensor.device().str(), ", the collective is of ",
                                                   device_.str()));
  }

  // What every rank is about to do, over the host side, before anything that could hang.
  absl::StatusOr<Agreement> Agree(OperationKind kind, int64_t numel, at::ScalarType type, bool contributes,
                                  std::string_view tag) {
    VLM_RETURN_IF_ERROR(communicator_.status());
    const uint64_t sequence = sequence_.fetch_add(1, std::memory_order_relaxed) + 1;
    Operation mine = MakeOperation(sequence, kind, numel, static_cast<uint32_t>(c10::elementSize(type)), tag);
    mine.contributes = contributes ? 1 : 0;
    absl::StatusOr<std::vector<std::string>> all =
        host_->AllGatherBytes({reinterpret_cast<const char*>(&mine), sizeof(mine)}, "next operation");
    if (!all.ok()) return End(Annotate(all.status(), DescribeOperation(mine)));
    Agreement agreement{DescribeOperation(mine), {}};
    for (int peer = 0; peer < world(); ++peer) {
      const std::string& bytes = (*all)[static_cast<size_t>(peer)];
      Operation theirs;
      if (bytes.size() != sizeof(theirs)) return End(absl::DataLossError("an operation of another build"));
      std::memcpy(&theirs, bytes.data(), sizeof(theirs));
      const absl::Status same = CheckSameOperation(rank(), mine, peer, theirs);
      if (!same.ok()) return End(same);
      agreement.contributes.push_back(theirs.contributes != 0);
    }
    return agreement;
  }

  // Runs `enqueue` on the collective's stream, after what the caller's stream holds, and waits for the device.
  template <typename Enqueue>
  absl::Status OnDevice(std::string_view what, const Enqueue& enqueue) {
    const absl::Status status = CatchTorch(what, [&]() -> absl::Status {
      const c10::cuda::CUDAGuard device(device_);
      const c10::cuda::CUDAStream caller = c10::cuda::getCurrentCUDAStream(device_.index());
      VLM_RETURN_IF_ERROR(CudaStatus(cudaEventRecord(event_, caller.stream()), "record an event"));
      VLM_RETURN_IF_ERROR(CudaStatus(cudaStreamWaitEvent(stream_.stream(), event_, 0), "wait for an event"));
      const c10::cuda::CUDAStreamGuard ours(stream_);
      VLM_RETURN_IF_ERROR(enqueue());
      VLM_RETURN_IF_ERROR(CudaStatus(cudaEventRecord(event_, stream_.stream()), "record an event"));
      return communicator_.Finish(what, event_);
    });
    return status.ok() ? status : End(status);
  }

  // Each contribution of this rank's shard arrives by itself and is added in rank order.
  absl::Status AddContributions(const at::Tensor& send, const Agreement& agreed, at::Tensor accumulator) {
    const int64_t shard = accumulator.numel();
    const at::Tensor received = Received(send);
    const bool contributes = agreed.contributes[static_cast<size_t>(rank())];
    const auto part = [&](const at::Tensor& whole, int owner) { return whole.narrow(0, owner * shard, shard); };
    if (world() > 1) {
      VLM_RETURN_IF_ERROR(communicator_.Start(agreed.what, [&](ncclComm_t communicator) {
        ncclResult_t result = ncclGroupStart();
        for (int peer = 0; peer < world() && (result == ncclSuccess || result == ncclInProgress); ++peer) {
          if (peer == rank()) continue;
          const int64_t bytes = shard * static_cast<int64_t>(send.element_size());
          if (contributes) {
            result = SendBytes(part(send, peer).const_data_ptr(), bytes, peer, communicator, stream_.stream());
          }
          if (!agreed.contributes[static_cast<size_t>(peer)] || (result != ncclSuccess && result != ncclInProgress)) {
            continue;
          }
          bytes_.fetch_add(static_cast<uint64_t>(bytes), std::memory_order_relaxed);
          result = ReceiveBytes(part(received, peer).mutable_data_ptr(), bytes, peer, communicator, stream_.stream());
        }
        const ncclResult_t ended = ncclGroupEnd();
        return result == ncclSuccess || result == ncclInProgress ? ended : result;
      }));
    }
    for (int peer = 0; peer < world(); ++peer) {
      if (!agreed.contributes[static_cast<size_t>(peer)]) continue;
      accumulator.add_(peer == rank() ? part(send, peer) : part(received, peer));  // in fp32; bf16 is widened exactly
    }
    return absl::OkStatus();
  }

  // Room for the peers' contributions, kept between calls; one rank needs none.
  at::Tensor Received(const at::Tensor& send) {
    if (world() == 1) return send;
    const int64_t bytes = static_cast<int64_t>(send.nbytes());
    if (!received_.defined() || received_.numel() < bytes) {
      received_ = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device_));
    }
    return received_.narrow(0, 0, bytes).view(send.scalar_type());
  }

  absl::Status End(const absl::Status& status) {
    communicator_.Interrupt(status);
    return communicator_.status();
  }

  const std::unique_ptr<Collective> host_;
  const at::Device device_;
  const c10::cuda::CUDAStream stream_;
  cudaEvent_t event_ = nullptr;
  at::Tensor received_;  // used on stream_ only
  std::atomic<uint64_t> sequence_{0}, bytes_{0};
  NcclCommunicator communicator_;
};

class Backend final : public NcclBackend {
 public:
  absl::StatusOr<std::string> NewUniqueId() const override {
    VLM_RETURN_IF_ERROR(CheckCudaDevice(0));
    ncclUniqueId id;
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess) {
      return absl::InternalError(absl::StrCat("NCCL made no unique id: ", ncclGetLastError(nullptr)));
    }
    return std::string(id.internal, sizeof(id.internal));
  }

  absl::StatusOr<std::unique_ptr<Collective>> Connect(const NcclOptions& options,
                                                      std::unique_ptr<Collective> host) const override {
    VLM_RETURN_IF_ERROR(CheckCudaDevice(options.device));
    ncclUniqueId id;
    if (options.unique_id.size() != sizeof(id.internal)) {
      return absl::InvalidArgumentError(
          absl::StrCat("an NCCL id has ", sizeof(id.internal), " bytes, rank 0 posted ", options.unique_id.size()));
    }
    std::memcpy(id.internal, options.unique_id.data(), sizeof(id.internal));
    return CatchTorch("connecting NCCL", [&]() -> absl::StatusOr<std::unique_ptr<Collective>> {
      auto collective = std::make_unique<NcclCollective>(options, id, std::move(host));
      VLM_RETURN_IF_ERROR(collective->Init());
      return std::unique_ptr<Collective>(std::move(collective));
    });
  }
};

}  // namespace
}  // namespace vlm::train

extern "C" __attribute__((visibility("default"))) const vlm::train::NcclBackend* vlm_train_nccl_backend() {
  static const vlm::train::Backend* const backend = new vlm::train::Backend();
  return backend;
}
