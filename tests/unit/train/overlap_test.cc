// With overlap, communication runs beside later computation: asserted on the order of events, never on time.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/mutex.h"
#include "gang_run.h"

namespace vlm::train {
namespace {

// What one rank did in the current step, in order. Thread-safe.
class Trace {
 public:
  void Clear() {
    MutexLock lock(&mutex_);
    events_.clear();
  }
  void Add(std::string event) {
    MutexLock lock(&mutex_);
    events_.push_back(std::move(event));
    changed_.NotifyAll();
  }
  // False when `event` does not come: the thread that would make it waits for the caller.
  bool Await(const std::string& event) {
    MutexLock lock(&mutex_);
    while (Find(event) < 0) {
      if (!changed_.WaitFor(&mutex_, absl::Seconds(30))) return false;
    }
    return true;
  }
  // Place of the first such event; -1: there is none.
  int Index(const std::string& event) {
    MutexLock lock(&mutex_);
    return Find(event);
  }

 private:
  int Find(const std::string& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = std::find(events_.begin(), events_.end(), event);
    return found == events_.end() ? -1 : static_cast<int>(found - events_.begin());
  }
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

// Communication by tag to the later computation that must be able to start while it runs.
using Pairs = std::map<std::string, std::string>;

// A real collective that says when an operation begins and ends. An operation named in `held` ends only after its
// computation has begun, which an engine without overlap never reaches.
class TracedCollective final : public Collective {
 public:
  TracedCollective(Collective* inner, Trace* trace, Pairs held)
      : inner_(inner), trace_(trace), held_(std::move(held)) {}
  int rank() const override { return inner_->rank(); }
  int world() const override { return inner_->world(); }
  absl::StatusOr<at::Tensor> Allocate(int64_t numel, at::ScalarType type, std::string_view tag) override {
    return inner_->Allocate(numel, type, tag);
  }
  absl::Status ReduceScatterAdd(const at::Tensor& send, bool contributes, at::Tensor accumulator,
                                std::string_view tag) override {
    return Traced(tag, [&] { return inner_->ReduceScatterAdd(send, contributes, accumulator, tag); });
  }
  absl::Status AllGather(const at::Tensor& shard, at::Tensor full, std::string_view tag) override {
    return Traced(tag, [&] { return inner_->AllGather(shard, full, tag); });
  }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine, std::string_view tag) override {
    return inner_->AllGatherBytes(mine, tag);
  }
  absl::Status Barrier(std::string_view tag) override { return inner_->Barrier(tag); }
  void Abort(std::string_view reason) override { inner_->Abort(reason); }
  uint64_t sequence() const override { return inner_->sequence(); }
  uint64_t bytes_communicated() const override { return inner_->bytes_communicated(); }

 private:
  template <typename Call>
  absl::Status Traced(std::string_view tag, const Call& call) {
    const std::string name(tag);
    trace_->Add("begin " + name);
    if (const auto held = held_.find(name); held != held_.end()) EXPECT_TRUE(trace_->Await(held->second)) << name;
    absl::Status status = call();
    trace_->Add("end " + name);
    return status;
  }
  Collective* const inner_;
  Trace* const trace_;
  const Pairs held_;
};

class TracedTape final : public model::Tape {
 public:
  TracedTape(std::unique_ptr<model::Tape> inner, std::string node, Trace* trace)
      : inner_(std::move(inner)), node_(std::move(node)), trace_(trace) {}
  const model::Values& outputs() const override { return inner_->outputs(); }
  model::Values Backward(const model::Values& grad_outputs, model::GradSink* sink) override {
    trace_->Add("backward " + node_);
    return inner_->Backward(grad_outputs, sink);
  }

 private:
  const std::unique_ptr<model::Tape> inner_;
  const std::string node_;
  Trace* const trace_;
};

class TracedUnit final : public model::Unit {
 public:
  TracedUnit(std::unique_ptr<model::Unit> inner, std::string node, Trace* trace)
      : inner_(std::move(inner)), node_(std::move(node)), trace_(trace) {}
  model::Declaration Declare() const override { return inner_->Declare(); }
  model::Values Forward(const model::UnitContext& context, const model::Params& params,
                        const model::Values& in) const override {
    return inner_->Forward(context, params, in);
  }
  std::unique_ptr<model::Tape> Record(const model::UnitContext& context, const model::Params& params,
                                      const std::vector<bool>& trainable, const model::Values& in,
                                      const std::vector<bool>& needs_grad, model::Save save) const override {
    trace_->Add("forward " + node_);
    return std::make_unique<TracedTape>(inner_->Record(context, params, trainable, in, needs_grad, save), node_,
                                        trace_);
  }

 private:
  const std::unique_ptr<model::Unit> inner_;
  const std::string node_;
  Trace* const trace_;
};

const Pairs& Beside() {
  static const Pairs* const pairs = new Pairs{
      {"parameters of llm.blocks.1", "forward llm.blocks.0"},
      {"parameters of llm.blocks.2", "forward llm.blocks.1"},
      {"gradient of llm.blocks.2", "backward llm.blocks.1"},
      {"gradient of llm.blocks.1", "backward llm.blocks.0"},
  };
  return *pairs;
}

// Two steps on two ranks, of which one has no picture; the second one gathers what the first one wrote. `check` sees
// the second step's trace of each rank.
struct TracedRun {
  Transport transport;
  ZeroLevel zero;
};

std::vector<double> TracedLosses(const TracedRun& run, bool overlap, const std::function<void(Trace*)>& check) {
  std::vector<double> losses;
  RunConnected(run.transport, 2, [&](Collective* real) {
    Trace trace;
    GangOptions options;
    options.toy.hidden = 184;  // every block a bucket of its own
    options.world = 2;
    options.zero = run.zero;
    options.micro_batches = 2;
    options.images = [](uint64_t, int64_t m) { return m; };
    options.overlap = overlap;
    options.change_graph = [&trace](model::Graph* graph) {
      for (model::Node& node : graph->nodes) {
        node.unit = std::make_unique<TracedUnit>(std::move(node.unit), node.name, &trace);
      }
    };
    TracedCollective collective(real, &trace, overlap ? Beside() : Pairs());
    ToyRank rank(options, &collective);
    for (const uint64_t step : {1, 2}) {
      trace.Clear();
      ASSERT_TRUE(rank.training()->Announce(step, rank.Headers(step)).ok());
      const absl::StatusOr<StepResult> result = rank.training()->Step(rank.Batches(step));
      ASSERT_TRUE(result.ok()) << result.status();
      if (collective.rank() == 0) losses.push_back(result->loss);
    }
    check(&trace);
  });
  return losses;
}

class OverlapTest : public ::testing::TestWithParam<TracedRun> {};

TEST_P(OverlapTest, CommunicationIsOnItsWayWhileLaterNodesRun) {
  const std::vector<double> overlapped = TracedLosses(GetParam(), /*overlap=*/true, [](Trace* trace) {
    for (const auto& [communication, computation] : Beside()) {
      EXPECT_GE(trace->Index("begin " + communication), 0) << communication;
      EXPECT_GE(trace->Index(computation), 0) << computation;
      EXPECT_LT(trace->Index(computation), trace->Index("end " + communication)) << communication;
    }
  });
  const std::vector<double> in_line = TracedLosses(GetParam(), /*overlap=*/false, [](Trace* trace) {
    for (const auto& [communication, computation] : Beside()) {
      EXPECT_GE(trace->Index("end " + communication), 0) << communication;
      EXPECT_LT(trace->Index("end " + communication), trace->Index(computation)) << communication;
    }
  });
  ASSERT_EQ(overlapped.size(), 2u);
  EXPECT_EQ(overlapped, in_line);
}

INSTANTIATE_TEST_SUITE_P(Runs, OverlapTest,
                         ::testing::Values(TracedRun{Transport::kSharedMemory, ZeroLevel::kZero1},
                                           TracedRun{Transport::kSharedMemory, ZeroLevel::kZero2},
                                           TracedRun{Transport::kSharedMemory, ZeroLevel::kZero3},
                                           TracedRun{Transport::kTcp, ZeroLevel::kZero2}),
                         [](const auto& info) {
                           return std::string(info.param.transport == Transport::kTcp ? "Tcp" : "SharedMemory") +
                                  "Zero" + std::to_string(static_cast<int>(info.param.zero));
                         });

}  // namespace
}  // namespace vlm::train
