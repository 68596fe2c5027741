// What is streamed to clients: a worker's words to its trainer, a coordinator's credit for telemetry, pieces of a log
// to vlmctl. Every stream ends, whatever comes on it.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "cli/logs.h"
#include "rpc/channel.h"
#include "tests/fuzz/drained_executor.h"
#include "tests/fuzz/forwarding_channel.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/message_builder.h"
#include "tests/fuzz/temporary_folder.h"
#include "trainer/worker_link.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/trainer.pb.h"
#include "vlm/v1/worker.pb.h"
#include "worker/telemetry_shipper.h"

namespace vlm::fuzz {
namespace {

using Messages = std::vector<std::string>;

// ---- what a worker tells its trainer ----

const KnownValues& KnownToTrainer() {
  static const auto* const kKnown = new KnownValues{
      {{"stage_uid", {"0123456789abcdef"}}, {"tcp", {"127.0.0.1:4000"}}, {"unix_socket", {"/run/rank-0"}}},
      {{"fence", {5, 6}}, {"rank", {0, 1, 2}}, {"world", {1, 2, 3}}, {"seconds", {0, 600}}, {"threads", {1, 2}}}};
  return *kKnown;
}

// Ends when its client ends it, and says so once.
class OpenStream final : public rpc::Stream {
 public:
  OpenStream(std::shared_ptr<rpc::StreamReceiver> receiver, int* ends) : receiver_(std::move(receiver)), ends_(*ends) {}
  ~OpenStream() override { Close(absl::OkStatus()); }
  bool Send(std::string) override { return receiver_ != nullptr; }
  void Close(absl::Status) override {
    if (receiver_ == nullptr) return;
    ++ends_;
    std::exchange(receiver_, nullptr)->OnClosed(absl::OkStatus());
  }

 private:
  std::shared_ptr<rpc::StreamReceiver> receiver_;
  int& ends_;
};

// A stream on which these messages lie; without an assignment among them it breaks after the last.
class WorkersChannel final : public rpc::Channel {
 public:
  WorkersChannel(Messages messages, bool breaks, int* ends)
      : messages_(std::move(messages)), breaks_(breaks), ends_(*ends) {}
  void Call(std::string_view, std::string, const rpc::CallOptions&, Done done) override {
    done(absl::UnimplementedError("no calls"));
  }
  std::unique_ptr<rpc::Stream> Open(std::string_view, const rpc::CallOptions&,
                                    std::shared_ptr<rpc::StreamReceiver> receiver) override {
    for (const std::string& message : messages_) receiver->OnMessage(message);
    auto stream = std::make_unique<OpenStream>(receiver, &ends_);
    if (breaks_) stream->Close(absl::OkStatus());
    return stream;
  }

 private:
  const Messages messages_;
  const bool breaks_;
  int& ends_;
};

void CheckPeers(trainer::WorkerLink* link) {
  const auto peers = link->Rendezvous({}, absl::ZeroDuration());
  if (!peers.ok()) return;
  const trainer::Assignment& assignment = link->assignment();
  VLM_CHECK(assignment.rank < assignment.world, "a rank that its world does not have was given peers");
  VLM_CHECK(peers->size() == static_cast<size_t>(assignment.world), "not one peer for each rank");
  const auto again = link->Rendezvous({}, absl::ZeroDuration());
  VLM_CHECK(again.ok() && again->size() == peers->size(), "one attempt, one set of peers");
}

void Attach(FuzzInput* input) {
  Messages messages;
  bool assigned = false;
  for (int count = 1 + input->Byte() % 4; count > 0 && !input->empty(); --count) {
    v1::AttachResponse message;
    if (!ReadMessage(KnownToTrainer(), input, &message)) {
      messages.emplace_back(input->Text());
      assigned = assigned || (message.ParseFromString(messages.back()) && message.has_start());
      continue;
    }
    assigned = assigned || message.has_start();
    messages.push_back(message.SerializeAsString());
  }
  int ends = 0;
  trainer::LinkOptions options;
  options.attempt_id = "6161/5";
  options.rank = input->Byte() % 3;
  {
    const auto link = trainer::WorkerLink::Connect(
        options, std::make_unique<WorkersChannel>(std::move(messages), !assigned, &ends), RealClock());
    VLM_CHECK(link.ok() || !link.status().message().empty(), "an assignment was refused without a reason");
    if (link.ok()) {
      const trainer::Assignment& assignment = (*link)->assignment();
      VLM_CHECK(assigned && assignment.rank == options.rank && assignment.world >= 1, "no assignment of this rank's");
      VLM_CHECK(assignment.threads >= 1, "nothing to compute with");
      VLM_CHECK((*link)->call_options().deadline > absl::ZeroDuration(), "calls that end before they begin");
      CheckPeers(link->get());
    }
  }
  VLM_CHECK(ends == 1, absl::StrCat("streams that ended: ", ends));
}

// ---- credit for telemetry ----

// Forwards to one that its owner runs.
class SharedExecutor final : public Executor {
 public:
  explicit SharedExecutor(DrainedExecutor* executor) : executor_(*executor) {}
  void Post(std::function<void()> function) override { executor_.Post(std::move(function)); }
  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    executor_.PostAfter(delay, std::move(function));
  }

 private:
  DrainedExecutor& executor_;
};

// The coordinator's end of the telemetry stream: counts what came and how much might.
class CreditChannel final : public rpc::Channel {
 public:
  explicit CreditChannel(uint64_t first_credit) : first_credit_(first_credit) {}
  void Call(std::string_view, std::string, const rpc::CallOptions&, Done done) override {
    done(absl::UnimplementedError("telemetry is a stream"));
  }
  std::unique_ptr<rpc::Stream> Open(std::string_view, const rpc::CallOptions&,
                                    std::shared_ptr<rpc::StreamReceiver> receiver) override {
    receiver_ = std::move(receiver);
    credit_ = first_credit_;
    under_way_ = 0;
    logs_.clear();
    ++open_;
    return std::make_unique<CountedStream>(this);
  }

  void Grant(uint64_t bytes) { credit_ = bytes > UINT64_MAX - credit_ ? UINT64_MAX : credit_ + bytes; }
  void Say(const std::string& bytes) { receiver_->OnMessage(bytes); }
  void Break() { std::exchange(receiver_, nullptr)->OnClosed(absl::UnavailableError("broken")); }
  // As the coordinator answers: everything that came on this stream is handled. False when nothing came.
  bool AnswerWell() {
    if (under_way_ == 0 || receiver_ == nullptr) return false;
    v1::ShipTelemetryResponse response;
    response.set_credit_bytes(under_way_);
    Grant(std::exchange(under_way_, 0));
    for (const v1::LogAcknowledged& log : std::exchange(logs_, {})) *response.add_logs() = log;
    Say(response.SerializeAsString());
    return true;
  }
  int open() const { return open_; }
  bool listens() const { return receiver_ != nullptr; }
  bool has_step(uint64_t step) const { return std::find(steps_.begin(), steps_.end(), step) != steps_.end(); }
  const std::string& last_log() const { return last_log_; }

 private:
  class CountedStream final : public rpc::Stream {
   public:
    explicit CountedStream(CreditChannel* channel) : channel_(*channel) {}
    ~CountedStream() override { --channel_.open_; }
    bool Send(std::string message) override { return channel_.Take(message); }
    void Close(absl::Status) override {}

   private:
    CreditChannel& channel_;
  };

  bool Take(const std::string& message) {
    VLM_CHECK(message.size() <= credit_, "telemetry was sent without credit");
    VLM_CHECK(message.size() <= worker::TelemetryShipper::kMessageBytesMax, "a message above the limit");
    credit_ -= message.size();
    under_way_ += message.size();
    v1::ShipTelemetryRequest request;
    VLM_CHECK(request.ParseFromString(message), "telemetry does not parse");
    for (const v1::MetricPoint& point : request.metrics().points()) steps_.push_back(point.step());
    if (!request.has_log()) return true;
    last_log_ = request.log().data();
    v1::LogAcknowledged& log = logs_.emplace_back();
    log.set_job_id(request.log().job_id());
    log.set_stage(request.log().stage());
    log.set_fence(request.log().fence());
    log.set_rank(request.log().rank());
    log.set_offset(request.log().offset() + request.log().data().size());
    return true;
  }

  const uint64_t first_credit_;
  std::shared_ptr<rpc::StreamReceiver> receiver_;
  uint64_t credit_ = 0, under_way_ = 0;
  int open_ = 0;
  std::vector<uint64_t> steps_;
  std::string last_log_;
  std::vector<v1::LogAcknowledged> logs_;
};

constexpr uint64_t kCredit = 64 << 10;

class FuzzedShipping {
 public:
  explicit FuzzedShipping(FuzzInput* input) : input_(*input) {
    shipper_->Start();
    shipper_->SetCredit(kCredit);
    shipper_->Begin(rank_, {.job_id = "job-1", .stage = "sft", .fence = 5, .rank = 0});
    executor_.RunDue();
  }

  void Run() {
    for (int operation = 0; operation < 32 && !input_.empty(); ++operation) {
      Operate();
      executor_.RunDue();
      VLM_CHECK(channel_.open() <= 1, "a stream was left open");
    }
    // Whatever was answered: to one that answers well everything that comes now arrives, with the next stream if need
    // be.
    executor_.Advance(absl::Seconds(10));
    if (channel_.listens()) channel_.Break();
    executor_.RunDue();
    executor_.Advance(absl::Seconds(10));
    Print("the last words");
    AddPoint(UINT64_MAX);
    while (channel_.AnswerWell()) executor_.RunDue();
    VLM_CHECK(channel_.has_step(UINT64_MAX), "a point was not shipped");
    VLM_CHECK(channel_.last_log().ends_with("the last words"), "a log was not shipped");
    shipper_->End(rank_);
    executor_.RunDue();
    VLM_CHECK(!PosixFileSystem()->Stat(folder_.path() + "/aa-5-r0").ok(), "a log was kept that is stored");
    shipper_.reset();
    VLM_CHECK(channel_.open() == 0, "a stream was not ended");
  }

 private:
  void Print(const std::string& text) {
    shipper_->Output(rank_, text);
    executor_.RunDue();
  }
  void AddPoint(uint64_t step) {
    v1::MetricBatch batch;
    batch.add_points()->set_series("loss");
    batch.mutable_points(0)->set_step(step);
    shipper_->Points(rank_, std::move(batch));
    executor_.RunDue();
  }

  void Operate() {
    switch (input_.Below(8)) {
      case 0:
        return Print(std::string(1 + input_.Byte(), 'x'));
      case 1:
        return Print(std::string(size_t{1} << (input_.Byte() % 18), 'y'));
      case 2:
        return AddPoint(input_.Byte());
      case 3:
        return executor_.Advance(absl::Milliseconds(10 * input_.Byte()));
      case 4:
        if (channel_.listens()) channel_.Break();
        return;
      case 5:
        channel_.AnswerWell();
        return;
      default:
        return AnswerAnything();
    }
  }

  void AnswerAnything() {
    if (!channel_.listens()) return;
    v1::ShipTelemetryResponse response;
    std::string bytes;
    if (ReadMessage(known_, &input_, &response)) {
      bytes = response.SerializeAsString();
    } else {
      bytes = std::string(input_.Text());
      if (!response.ParseFromString(bytes)) response.Clear();
    }
    channel_.Grant(response.credit_bytes());
    channel_.Say(bytes);
  }

  FuzzInput& input_;
  DrainedExecutor executor_;
  const TemporaryFolder folder_;
  CreditChannel channel_{kCredit};
  worker::NoWorkerMetrics metrics_;
  const worker::RankKey rank_{"aa/5", 5, 0};
  const KnownValues known_ = {
      {{"job_id", {"job-1"}}, {"stage", {"sft"}}},
      {{"fence", {5}}, {"rank", {0}}, {"offset", {0, 1, 100}}, {"credit_bytes", {0, 64, 4096}}}};
  std::unique_ptr<worker::TelemetryShipper> shipper_ =
      std::make_unique<worker::TelemetryShipper>(worker::TelemetryShipper::Parts{.channel = &channel_,
                                                                                 .node_id = "node-a",
                                                                                 .log_root = folder_.path(),
                                                                                 .metrics = &metrics_,
                                                                                 .jitter = RngKey{1},
                                                                                 .note = [](const std::string&) {}},
                                                 std::make_unique<SharedExecutor>(&executor_));
};

// ---- pieces of a log ----

// A second passes with every look at it.
class RunningClock final : public Clock {
 public:
  absl::Duration Monotonic() const override { return now_ += absl::Seconds(1); }
  absl::Time Wall() const override { return absl::FromUnixSeconds(1'700'000'000) + now_; }

 private:
  mutable absl::Duration now_;
};

// The byte of a log at a place.
char LetterAt(uint64_t offset) { return static_cast<char>('a' + offset % 26); }

// A log of one stage, told in pieces of its true text at any places, until the input ends; then the stage has ended.
class LogChannel final : public rpc::Channel {
 public:
  LogChannel(FuzzInput* input, const uint64_t* shown) : input_(*input), shown_(*shown) {}

  void Call(std::string_view, std::string, const rpc::CallOptions&, Done done) override {
    if (opened_ && input_.Byte() % 16 == 1) return done(absl::UnavailableError("away"));
    v1::GetJobResponse response;
    response.mutable_job()->set_job_id("job-1");
    v1::Stage& stage = *response.mutable_job()->add_stages();
    stage.set_name("sft");
    stage.set_fence(1 + input_.Byte() % 2);
    stage.set_state(input_.empty() ? v1::STAGE_STATE_SUCCEEDED : v1::STAGE_STATE_ACTIVE);
    done(response.SerializeAsString());
  }

  std::unique_ptr<rpc::Stream> Open(std::string_view, const rpc::CallOptions&,
                                    std::shared_ptr<rpc::StreamReceiver> receiver) override {
    opened_ = true;
    auto stream = std::make_unique<LogStream>(this);
    for (int pieces = input_.Byte() % 5; pieces > 0; --pieces) receiver->OnMessage(Piece());
    const uint8_t end = input_.Byte();
    receiver->OnClosed(end % 8 < 5   ? absl::OkStatus()
                       : end % 8 < 7 ? absl::UnavailableError("broken")
                                     : absl::NotFoundError("no such rank"));
    return stream;
  }

 private:
  class LogStream final : public rpc::Stream {
   public:
    explicit LogStream(LogChannel* channel) : channel_(*channel) {}
    bool Send(std::string message) override {
      v1::TailLogsRequest request;
      VLM_CHECK(request.ParseFromString(message), "a request that does not parse");
      VLM_CHECK(request.offset() == channel_.shown_, "a log is not read on from where it was shown");
      return true;
    }
    void Close(absl::Status) override {}

   private:
    LogChannel& channel_;
  };

  std::string Piece() {
    const uint8_t choice = input_.Byte();
    if (choice >= 250) return std::string(input_.Text());
    v1::TailLogsResponse response;
    // Where the reader stands, a little before or after, or anywhere.
    const uint64_t around = shown_ + choice % 4 * input_.Byte();
    response.set_offset(choice < 200 ? around - std::min<uint64_t>(around, choice / 8) : input_.Number());
    for (int bytes = input_.Byte(); bytes > 0; --bytes) {
      *response.mutable_data() += LetterAt(response.offset() + response.data().size());
    }
    response.set_dropped_bytes(input_.Number());
    return response.SerializeAsString();
  }

  FuzzInput& input_;
  const uint64_t& shown_;
  bool opened_ = false;
};

// A person sees each byte of an attempt's log once and in its place, or is told how many are left out.
void ShowLog(FuzzInput* input) {
  uint64_t shown = 0;  // up to there, of the attempt at hand
  cli::Terminal terminal({.out =
                              [&shown](std::string_view text) {
                                for (const char letter : text) {
                                  VLM_CHECK(letter == LetterAt(shown++), "a piece of a log stands at another place");
                                }
                              },
                          .error =
                              [&shown](std::string_view line) {
                                if (line.starts_with("==> ")) shown = 0;
                                uint64_t left_out = 0;
                                if (!line.starts_with("... ")) return;
                                const std::string number(line.substr(4, line.find(' ', 4) - 4));
                                VLM_CHECK(absl::SimpleAtoi(number, &left_out) && left_out > 0, "nothing is left out");
                                VLM_CHECK(left_out <= UINT64_MAX - shown, "more is left out than a log can have");
                                shown += left_out;
                              }});
  RunningClock clock;
  cli::Interrupt interrupt;
  LogChannel channel(input, &shown);
  const bool follow = input->Byte() % 2 == 1;
  cli::Service service([] { return cli::Endpoint{"127.0.0.1:1", "token"}; },
                       [&channel](const cli::Endpoint&) -> absl::StatusOr<std::unique_ptr<rpc::Channel>> {
                         return std::make_unique<ForwardingChannel>(&channel);
                       },
                       &clock, &interrupt, nullptr, {.backoff_min = absl::Nanoseconds(1)});
  cli::Context context;
  context.clock = &clock;
  context.interrupt = &interrupt;
  context.terminal = &terminal;
  context.service = &service;
  const cli::VerbResult result = cli::Logs(context, {.job = "job-1", .stage = "", .rank = 0, .follow = follow});
  VLM_CHECK(result.ok() || !result.status().message().empty(), "refused without a reason");
}

}  // namespace
}  // namespace vlm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  switch (input.Byte() % 3) {
    case 0:
      vlm::fuzz::Attach(&input);
      break;
    case 1:
      vlm::fuzz::FuzzedShipping(&input).Run();
      break;
    default:
      vlm::fuzz::ShowLog(&input);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  std::vector<std::string> seeds;
  // Five bytes of a log, then two at the last of all places, of which one is beyond; and the stream breaks.
  seeds.emplace_back(std::string("\x02\x00\x00\x02\x00\x00\x05\x00\xf0\x00\xfa", 11) + std::string(8, '\xff') +
                     std::string("\x02\x00\x05", 3));
  Rng rng(RngKey{29});
  for (int i = 0; i < 48; ++i) {
    std::string seed(1, static_cast<char>(i));
    for (int byte = 0; byte < 300; ++byte) seed += static_cast<char>(rng.Below(256));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
