#include "tests/bench/coordinator_clients.h"

#include <atomic>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/clock.h"
#include "base/file_system.h"
#include "base/mutex.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::bench {
namespace {

constexpr absl::Duration kDeadline = absl::Seconds(30);  // of a write
constexpr absl::Duration kReconnect = absl::Milliseconds(20);
constexpr absl::Duration kBeat = absl::Seconds(1);
constexpr size_t kNonceBytesMax = 1024;

class Submitter final : public Writer {
 public:
  Submitter(std::shared_ptr<rpc::Channel> channel, const std::string& job, bool patient)
      : channel_(std::move(channel)), job_(job), patient_(patient) {}

  absl::Status Write(const std::string& id) override {
    v1::SubmitJobRequest request;
    const std::string seed = absl::StrCat(100000 + absl::HashOf(id) % 900000);
    request.set_job_yaml(absl::StrReplaceAll(job_, {{"bench-name", id}, {"424242", seed}}));
    request.set_request_id(id);
    const auto response = rpc::CallAndWait<v1::SubmitJobResponse>(
        channel_.get(), "/vlm.v1.JobService/SubmitJob", request, {.deadline = kDeadline, .wait_for_ready = patient_});
    if (!response.ok()) return response.status();
    return response->job_id().empty() ? absl::InternalError("a submit was answered without a job") : absl::OkStatus();
  }

 private:
  const std::shared_ptr<rpc::Channel> channel_;
  const std::string job_;
  const bool patient_;
};

// etcdserverpb.PutRequest{bytes key = 1; bytes value = 2}, on the wire.
std::string PutRequest(const std::string& key, const std::string& value) {
  std::string out;
  const auto add = [&](char tag, const std::string& bytes) {
    out += tag;
    size_t length = bytes.size();
    for (; length >= 128; length >>= 7) out += static_cast<char>(length | 128);
    out += static_cast<char>(length);
    out += bytes;
  };
  add(0x0a, key);
  add(0x12, value);
  return out;
}

class EtcdWriter final : public Writer {
 public:
  EtcdWriter(std::shared_ptr<rpc::Channel> channel, const std::string& job) : channel_(std::move(channel)), job_(job) {}

  absl::Status Write(const std::string& id) override {
    const std::string value = absl::StrReplaceAll(job_, {{"bench-name", id}});
    return rpc::CallAndWait(channel_.get(), "/etcdserverpb.KV/Put", PutRequest(id, value),
                            {.deadline = kDeadline, .wait_for_ready = true})
        .status();
  }

 private:
  const std::shared_ptr<rpc::Channel> channel_;
  const std::string job_;
};

// One worker's session. Its receiver outlives it: callbacks may arrive after the stream is gone.
class IdleWorker {
 public:
  IdleWorker(std::string node_id, int slots) : state_(std::make_shared<State>(std::move(node_id), slots)) {}

  void Tick(const std::function<std::shared_ptr<rpc::Channel>()>& connect, bool beat) {
    MutexLock lock(&state_->mutex);
    if (state_->closed) {
      stream_.reset();
      channel_ = connect();
      state_->closed = state_->welcomed = false;
      state_->out.clear();
      state_->SayHello();
      stream_ = channel_->Open("/vlm.v1.WorkerService/Session", {.wait_for_ready = true}, state_);
    } else if (beat && state_->welcomed) {
      state_->SayBeat();
    }
    for (std::string& message : state_->out) stream_->Send(std::move(message));
    state_->out.clear();
  }
  bool welcomed() const {
    MutexLock lock(&state_->mutex);
    return state_->welcomed;
  }
  int ranks() const {
    MutexLock lock(&state_->mutex);
    return static_cast<int>(state_->held.size());
  }

 private:
  struct State final : public rpc::StreamReceiver {
    State(std::string id, int slot_count) : node_id(std::move(id)), slots(slot_count) {}

    void OnMessage(std::string bytes) override {
      v1::SessionResponse response;
      if (!response.ParseFromString(bytes)) return;
      MutexLock lock(&mutex);
      heard = response.sequence();
      epoch = response.coordinator_epoch();
      welcomed = welcomed || response.has_welcome();
      if (response.has_check_root()) SayRoot(response.check_root());
      if (response.has_assign()) SayReady(response.assign());
      if (response.has_stop()) held.erase(response.stop().attempt_id());
    }
    void OnClosed(absl::Status) override {
      MutexLock lock(&mutex);
      closed = true;
    }

    void Say(v1::SessionRequest message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      message.set_sequence(++sequence);
      message.set_acknowledged(heard);
      out.push_back(message.SerializeAsString());
    }
    void SayHello() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      v1::SessionRequest message;
      v1::Hello* hello = message.mutable_hello();
      hello->set_node_id(node_id);
      hello->set_incarnation(1);
      hello->set_boot_id("boot");
      hello->set_epoch_seen(epoch);
      hello->set_protocol_min(1);
      hello->set_protocol_max(1);
      hello->set_state_uuid(absl::StrCat("state-of-", node_id));
      hello->set_hostname("localhost");
      hello->set_build("bench");
      for (int i = 0; i < slots; ++i) {
        v1::Device* device = hello->add_devices();
        device->set_kind(v1::DEVICE_KIND_CPU_SLOT);
        device->set_index(i);
        device->set_threads(1);
      }
      for (const auto& [attempt, rank] : held) *hello->add_held() = rank;
      Say(std::move(message));
    }
    void SayBeat() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      ++counter;
      v1::SessionRequest message;
      for (const auto& [attempt, rank] : held) {
        v1::RankBeat* beat = message.mutable_beat()->add_ranks();
        beat->set_attempt_id(attempt);
        beat->set_rank(rank.rank());
        beat->set_phase(v1::RANK_PHASE_STEP);
        beat->set_counter(counter);
      }
      message.mutable_beat()->set_disk_free_bytes(uint64_t{1} << 40);
      Say(std::move(message));
    }
    void SayRoot(const v1::CheckRoot& check) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      const auto read =
          ReadFile(PosixFileSystem(), absl::StrCat(check.root(), "/", check.nonce_file()), kNonceBytesMax);
      v1::SessionRequest message;
      message.mutable_root_checked()->set_root(check.root());
      if (!read.ok() || *read != check.nonce()) message.mutable_root_checked()->set_error("the nonce is not there");
      Say(std::move(message));
    }
    void SayReady(const v1::Assign& assign) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      for (const v1::RankSlot& slot : assign.ranks()) {
        v1::HeldRank& rank = held[assign.attempt_id()];
        rank.set_attempt_id(assign.attempt_id());
        rank.set_fence(assign.fence());
        rank.set_rank(slot.rank());
        rank.set_phase(v1::RANK_PHASE_STEP);
        rank.mutable_endpoint()->set_boot_id("boot");
        v1::SessionRequest message;
        v1::RankUpdate* update = message.mutable_rank();
        update->set_attempt_id(assign.attempt_id());
        update->set_fence(assign.fence());
        update->set_rank(slot.rank());
        *update->mutable_endpoint() = rank.endpoint();
        Say(std::move(message));
      }
    }

    Mutex mutex;
    const std::string node_id;
    const int slots;
    std::map<std::string, v1::HeldRank> held ABSL_GUARDED_BY(mutex);  // one rank of an attempt at most
    std::vector<std::string> out ABSL_GUARDED_BY(mutex);              // sent by the ticking thread
    uint64_t sequence ABSL_GUARDED_BY(mutex) = 0, heard ABSL_GUARDED_BY(mutex) = 0;
    uint64_t epoch ABSL_GUARDED_BY(mutex) = 0, counter ABSL_GUARDED_BY(mutex) = 0;
    bool closed ABSL_GUARDED_BY(mutex) = true, welcomed ABSL_GUARDED_BY(mutex) = false;
  };

  const std::shared_ptr<State> state_;
  std::shared_ptr<rpc::Channel> channel_;
  std::unique_ptr<rpc::Stream> stream_;
};

class IdleWorkersImpl final : public IdleWorkers {
 public:
  IdleWorkersImpl(std::function<std::shared_ptr<rpc::Channel>()> connect, const IdleWorkersOptions& options)
      : connect_(std::move(connect)) {
    for (int i = 0; i < options.workers; ++i) {
      workers_.push_back(std::make_unique<IdleWorker>(absl::StrCat("bench-worker-", i), options.slots));
    }
    ticker_ = std::thread([this] { Tick(); });
  }
  ~IdleWorkersImpl() override {
    stopping_ = true;
    ticker_.join();
  }
  int welcomed() const override {
    int count = 0;
    for (const auto& worker : workers_) count += worker->welcomed() ? 1 : 0;
    return count;
  }
  int ranks() const override {
    int count = 0;
    for (const auto& worker : workers_) count += worker->ranks();
    return count;
  }

 private:
  void Tick() {
    absl::Duration next_beat = RealClock()->Monotonic();
    while (!stopping_) {
      const absl::Duration now = RealClock()->Monotonic();
      const bool beat = now >= next_beat;
      if (beat) next_beat = now + kBeat;
      for (const auto& worker : workers_) worker->Tick(connect_, beat);
      std::this_thread::sleep_for(absl::ToChronoMilliseconds(kReconnect));
    }
  }

  const std::function<std::shared_ptr<rpc::Channel>()> connect_;
  std::vector<std::unique_ptr<IdleWorker>> workers_;
  std::atomic<bool> stopping_ = false;
  std::thread ticker_;
};

}  // namespace

std::unique_ptr<Writer> NewSubmitter(std::shared_ptr<rpc::Channel> channel, const std::string& job, bool patient) {
  return std::make_unique<Submitter>(std::move(channel), job, patient);
}

std::unique_ptr<Writer> NewEtcdWriter(std::shared_ptr<rpc::Channel> channel, const std::string& job) {
  return std::make_unique<EtcdWriter>(std::move(channel), job);
}

absl::StatusOr<Written> WriteAll(const std::vector<std::unique_ptr<Writer>>& writers, const std::string& prefix,
                                 int count) {
  std::atomic<int> next = 0;
  std::vector<std::vector<absl::Duration>> latencies(writers.size());
  std::vector<absl::Status> statuses(writers.size());
  const absl::Duration start = RealClock()->Monotonic();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < writers.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int number = next++; number < count && statuses[i].ok(); number = next++) {
        const absl::Duration begun = RealClock()->Monotonic();
        statuses[i] = writers[i]->Write(absl::StrCat(prefix, "-", number));
        latencies[i].push_back(RealClock()->Monotonic() - begun);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Written written{RealClock()->Monotonic() - start, {}};
  for (size_t i = 0; i < writers.size(); ++i) {
    VLM_RETURN_IF_ERROR(statuses[i]);
    written.latencies.insert(written.latencies.end(), latencies[i].begin(), latencies[i].end());
  }
  return written;
}

std::unique_ptr<IdleWorkers> StartIdleWorkers(std::function<std::shared_ptr<rpc::Channel>()> connect,
                                              const IdleWorkersOptions& options) {
  return std::make_unique<IdleWorkersImpl>(std::move(connect), options);
}

}  // namespace vlm::bench
