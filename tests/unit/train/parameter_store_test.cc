#include "train/parameter_store.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/out_of_memory.h"
#include "gang_run.h"
#include "llava_run.h"
#include "thread_collective.h"

namespace vlm::train {
namespace {

class ParameterStoreTest : public testing::Test {
 protected:
  ParameterStoreTest() : collective_(NewSingleRankCollective()), rank_(GangOptions(), collective_.get()) {}
  model::NodeId NodeNamed(const std::string& name) const {
    for (size_t i = 0; i < rank_.graph().nodes.size(); ++i) {
      if (rank_.graph().nodes[i].name == name) return static_cast<model::NodeId>(i);
    }
    return model::kNone;
  }
  BucketId BucketOfNode(model::NodeId node) {
    return rank_.store()->BucketOf(rank_.graph().nodes[static_cast<size_t>(node)].params[0]);
  }
  const std::unique_ptr<Collective> collective_;
  ToyRank rank_;
};

TEST_F(ParameterStoreTest, ViewsNeedAnAcquiredBucket) {
  const model::NodeId node = NodeNamed("llm.blocks.0");
  EXPECT_EQ(rank_.store()->Views(node).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(rank_.store()->Acquire(BucketOfNode(node)).Wait().ok());
  EXPECT_TRUE(rank_.store()->Views(node).ok());
  rank_.store()->Release(BucketOfNode(node));
  EXPECT_EQ(rank_.store()->Views(node).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ParameterStoreTest, NothingIsWrittenWhileAcquired) {
  const model::NodeId node = NodeNamed("llm.blocks.0");
  const model::ParamId param = rank_.graph().nodes[static_cast<size_t>(node)].params[0];
  const at::Tensor value = at::zeros(rank_.graph().params[static_cast<size_t>(param)].shape);
  ASSERT_TRUE(rank_.store()->Acquire(BucketOfNode(node)).Wait().ok());
  EXPECT_EQ(rank_.store()->WriteParameter(param, value).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(rank_.store()->Updated(BucketOfNode(node)).code(), absl::StatusCode::kFailedPrecondition);
  rank_.store()->Release(BucketOfNode(node));
  EXPECT_TRUE(rank_.store()->WriteParameter(param, value).ok());
  EXPECT_EQ(rank_.store()->WriteParameter(param, at::zeros({3})).code(), absl::StatusCode::kInvalidArgument);
}

// Records a block, writes its parameters by `write`, then runs backward over the old record.
class BumpTest : public ParameterStoreTest {
 protected:
  void BackwardAfter(const std::function<void(BucketId)>& write) {
    const model::NodeId id = NodeNamed("llm.blocks.0");
    const model::Node& node = rank_.graph().nodes[static_cast<size_t>(id)];
    const BucketId bucket = BucketOfNode(id);
    ASSERT_TRUE(rank_.store()->Acquire(bucket).Wait().ok());
    const auto tape = node.unit->Record({}, rank_.store()->Views(id).value(), std::vector<bool>(4, true),
                                        {at::ones({3, 24})}, {true}, model::Save::kGraph);
    model::GradSink sink = rank_.store()->Gradients(id).value();
    rank_.store()->Release(bucket);
    write(bucket);
    tape->Backward({at::ones({3, 24})}, &sink);
  }
};

TEST_F(BumpTest, AutogradRefusesGradientsOfOverwrittenParameters) {
  EXPECT_NO_THROW(BackwardAfter([](BucketId) {}));
  // As the optimizer and a gather do it: raw bytes, then the store's bump.
  EXPECT_THROW(BackwardAfter([&](BucketId bucket) {
                 float* raw = rank_.store()->Shard(bucket).master.mutable_data_ptr<float>();
                 for (int i = 0; i < 1000; ++i) raw[i] += 1.0f;
                 ASSERT_TRUE(rank_.store()->Updated(bucket).ok());
               }),
               c10::Error);
  EXPECT_THROW(
      BackwardAfter([&](BucketId bucket) {
        const model::ParamId param = rank_.store()->buckets()[static_cast<size_t>(bucket)].ranges[1].param;
        ASSERT_TRUE(rank_.store()
                        ->WriteParameter(param, at::zeros(rank_.graph().params[static_cast<size_t>(param)].shape))
                        .ok());
      }),
      c10::Error);
}

TEST(GatherTest, GatheredBucketsAreBumpedToo) {
  RunRanks(2, [](Collective* collective) {
    ToyRank rank(GangOptions(), collective);
    const BucketId bucket = rank.store()->BucketOf(rank.graph().FindParam("language_model.embed.weight"));
    const auto version = [&] {
      EXPECT_TRUE(rank.store()->Acquire(bucket).Wait().ok());
      for (size_t node = 0; node < rank.graph().nodes.size(); ++node) {
        if (rank.graph().nodes[node].name != "llm.embed") continue;
        const auto result = rank.store()->Views(static_cast<model::NodeId>(node)).value()[0]._version();
        rank.store()->Release(bucket);
        return result;
      }
      return decltype(at::Tensor()._version()){0};
    };
    const auto first = version();
    EXPECT_EQ(version(), first);
    ASSERT_TRUE(rank.store()->Updated(bucket).ok());
    EXPECT_GE(version(), first + 2);  // the update, and the gather that followed
  });
}

TEST(ShardedParametersTest, AreThereWhileAcquired) {
  RunRanks(2, [](Collective* collective) {
    GangOptions options;
    options.zero = ZeroLevel::kZero3;
    ToyRank rank(options, collective);
    ParameterStore* const store = rank.store();
    const model::ParamId param = rank.graph().FindParam("language_model.embed.weight");
    const BucketId bucket = store->BucketOf(param);
    model::NodeId embed = 0;
    while (rank.graph().nodes[static_cast<size_t>(embed)].name != "llm.embed") ++embed;
    EXPECT_EQ(store->ReadParameter(param).status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(store->Views(embed).status().code(), absl::StatusCode::kFailedPrecondition);
    ASSERT_TRUE(store->Acquire(bucket).Wait().ok());
    const at::Tensor view = store->Views(embed).value()[0], first = store->ReadParameter(param).value();
    const auto version = view._version();
    store->Release(bucket);
    EXPECT_EQ(view.storage().data(), nullptr);
    EXPECT_EQ(store->ReadParameter(param).status().code(), absl::StatusCode::kFailedPrecondition);
    // The same values once more: what autograd saved of the view is still right, and it must not see a write.
    ASSERT_TRUE(store->Acquire(bucket).Wait().ok());
    EXPECT_TRUE(EqualBits(view, first));
    EXPECT_EQ(view._version(), version);
    store->Release(bucket);
    // Other values: it must see one.
    ASSERT_TRUE(store->WriteParameter(param, first + 1).ok());
    ASSERT_TRUE(store->Acquire(bucket).Wait().ok());
    EXPECT_TRUE(EqualBits(view, first + 1));
    EXPECT_GT(view._version(), version);
    store->Release(bucket);
  });
}

// The whole master of a parameter, 1-d. Collective.
at::Tensor Master(ParameterStore* store, model::ParamId param) {
  const BucketId bucket = store->BucketOf(param);
  const at::Tensor whole = store->GatherState(bucket, ParameterStore::StateKind::kMaster).value();
  for (const ParamRange& range : store->buckets()[static_cast<size_t>(bucket)].ranges) {
    if (range.param == param) return whole.narrow(0, range.offset, range.end - range.begin);
  }
  return {};
}

// Frozen buckets too; from zero 1 on no element is filled by two ranks.
TEST(PartsToLoadTest, TogetherAreTheWholeOnEveryRank) {
  for (const ZeroLevel zero : {ZeroLevel::kZero0, ZeroLevel::kZero1, ZeroLevel::kZero2, ZeroLevel::kZero3}) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
      RunRanks(3, [&](Collective* collective) {
        GangOptions options;
        options.zero = zero;
        options.compute = compute;
        options.trainable = {"language_model.*"};
        ToyRank rank(options, collective);
        ParameterStore* const store = rank.store();
        const auto value = [&](model::ParamId param) {
          const std::vector<int64_t>& shape = rank.graph().params[static_cast<size_t>(param)].shape;
          // More digits than bf16 has, which is what the masters are for.
          return (at::arange(NumElements(shape)).remainder(100) / 7 + param).reshape(shape);
        };
        for (size_t i = 0; i < rank.graph().params.size(); ++i) {
          const auto param = static_cast<model::ParamId>(i);
          const ParameterStore::OwnedPart part = store->PartToLoad(param).value();
          const at::Tensor flat = value(param).flatten();
          at::Tensor filled = at::zeros({flat.numel()});
          filled.narrow(0, part.begin, part.end - part.begin).fill_(1);
          EXPECT_EQ(part.memory.numel(), part.end - part.begin);
          at::Tensor all = at::empty({flat.numel() * 3});
          ASSERT_TRUE(collective->AllGather(filled, all, "filled").ok());
          const at::Tensor times = all.reshape({3, -1}).sum(0);
          EXPECT_TRUE((times == (zero == ZeroLevel::kZero0 ? 3 : 1)).all().item<bool>());
          store->PartLoaded(param, part, flat.narrow(0, part.begin, part.end - part.begin));
        }
        for (size_t i = 0; i < rank.graph().params.size(); ++i) {
          const auto param = static_cast<model::ParamId>(i);
          const BucketId bucket = store->BucketOf(param);
          ASSERT_TRUE(store->Acquire(bucket).Wait().ok());
          EXPECT_TRUE(EqualBits(store->ReadParameter(param).value(), value(param).to(compute)));
          EXPECT_EQ(store->PartToLoad(param).status().code(), absl::StatusCode::kFailedPrecondition);
          store->Release(bucket);
          if (!store->Optimized(bucket)) continue;
          EXPECT_TRUE(EqualBits(Master(store, param), value(param).flatten()));
        }
      });
    }
  }
}

struct Formula {
  int64_t parameters, gathered, gradients, master, moments;
  int64_t reduced, gathered_parameters, gathered_gradients, gathered_state, scratch;
};

// Elements of the buffers that hold what a schedule holds at a time, and of all that it gathers.
struct GatherCounts {
  int64_t buffers = 0, gathered = 0;
};

GatherCounts CountGathers(const std::vector<Op>& ops, const std::vector<BucketSpec>& buckets) {
  GatherCounts counts;
  std::map<BucketId, std::pair<int, int64_t>> held;  // acquisitions, size of the buffer
  std::multiset<int64_t> free;
  for (const Op& op : ops) {
    if (op.kind == Op::Kind::kAcquire && held[op.id].first++ == 0) {
      const int64_t numel = buckets[static_cast<size_t>(op.id)].numel;
      const auto found = free.lower_bound(numel);
      const bool reuse = found != free.end() && *found <= 2 * numel;
      held[op.id].second = reuse ? *found : numel;
      if (reuse) free.erase(found);
      counts.buffers += reuse ? 0 : numel;
      counts.gathered += numel;
    }
    if (op.kind == Op::Kind::kRelease && --held[op.id].first == 0) free.insert(held[op.id].second);
  }
  return counts;
}

// The ledger's formulas (train/ledger.h) from bucket sizes alone.
Formula Expected(const GangOptions& options, int64_t micro_steps, int64_t optimizer_steps) {
  const model::Graph graph = ToyGraph(options.toy);
  const auto buckets = PlanBuckets(graph, SelectTrainable(graph, options.trainable).value(), options.world);
  const int64_t c = options.compute == at::kFloat ? 4 : 2, world = options.world;
  const ZeroLevel zero = options.zero;
  const bool whole_state = zero == ZeroLevel::kZero0, sharded = zero == ZeroLevel::kZero3 && world > 1;
  int64_t all = 0, optimized = 0, largest = 0, slots = 0;
  for (const BucketSpec& bucket : buckets) {
    all += bucket.numel;
    if (!bucket.trainable || !bucket.reached) continue;
    optimized += bucket.numel;
    largest = std::max(largest, bucket.numel);
  }
  for (int64_t slot : PlanSlots(buckets).slot_numel) slots += slot;
  if (zero == ZeroLevel::kZero1) slots = optimized;
  const int64_t owned = whole_state ? optimized : optimized / world;
  const int64_t received = optimized * (world - 1) / world;
  const GatherCounts gathers =
      CountGathers(Plan(graph, buckets, true, {.release_after_use = true}).ops, buckets);  // every one has a picture
  return {sharded ? c * all / world : c * all,
          sharded ? c * gathers.buffers : 0,
          c * slots + 4 * owned,
          c == 4 ? 0 : 4 * owned,
          8 * owned,
          c * received * micro_steps,
          whole_state ? 0
          : sharded   ? c * gathers.gathered * (world - 1) / world * micro_steps
                      : c * received * (optimizer_steps - 1),  // the last step's update is not yet gathered
          whole_state ? 4 * received * optimizer_steps : 0,
          whole_state ? 0 : 4 * received * 3,
          !whole_state && world > 1 ? 4 * largest : 0};
}

// Gathers what a save of the optimizer's state gathers.
Ledger AfterASave(ParameterStore* store) {
  for (BucketId id = 0; id < static_cast<BucketId>(store->buckets().size()); ++id) {
    if (!store->Optimized(id)) continue;
    using Kind = ParameterStore::StateKind;
    for (const Kind kind : {Kind::kMaster, Kind::kFirstMoment, Kind::kSecondMoment}) {
      EXPECT_EQ(store->GatherState(id, kind).value().numel(), store->buckets()[static_cast<size_t>(id)].numel);
    }
  }
  return store->ledger();
}

TEST(LedgerTest, BytesFollowTheFormulasOfEachZeroLevel) {
  for (ZeroLevel zero : {ZeroLevel::kZero0, ZeroLevel::kZero1, ZeroLevel::kZero2, ZeroLevel::kZero3}) {
    for (int world : {1, 2, 3}) {
      for (at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
        for (const std::vector<std::string>& trainable :
             {std::vector<std::string>{}, {"connector", "llm.blocks[-1:]"}}) {
          GangOptions options;
          options.zero = zero;
          options.world = world;
          options.compute = compute;
          options.trainable = trainable;
          options.toy.hidden = 184;
          options.micro_batches = 2 * world;
          options.steps = 2;
          options.images = [](uint64_t, int64_t) { return 1; };
          options.transport = world == 1 ? Transport::kSingle : Transport::kSharedMemory;
          std::vector<Ledger> saved(static_cast<size_t>(world));
          options.after = [&](ParameterStore* store) { saved[static_cast<size_t>(store->rank())] = AfterASave(store); };
          const Formula expected = Expected(options, /*micro_steps=*/2 * 2, /*optimizer_steps=*/2);
          const GangResult result = RunGang(options);
          for (int rank = 0; rank < world; ++rank) {
            const Ledger& ledger = result.ledgers[rank];
            EXPECT_EQ(ledger.resident.parameters, expected.parameters);
            EXPECT_EQ(ledger.resident.gathered, expected.gathered);
            EXPECT_EQ(ledger.resident.gradients, expected.gradients);
            EXPECT_EQ(ledger.resident.master, expected.master);
            EXPECT_EQ(ledger.resident.moments, expected.moments);
            EXPECT_EQ(ledger.communicated.reduced, expected.reduced);
            EXPECT_EQ(ledger.communicated.gathered_parameters, expected.gathered_parameters);
            EXPECT_EQ(ledger.communicated.gathered_gradients, expected.gathered_gradients);
            // Nothing else was moved than what the ledger has by class (shared memory counts no host bytes).
            EXPECT_EQ(static_cast<int64_t>(result.bytes_communicated[rank]),
                      ledger.communicated.reduced + ledger.communicated.gathered_parameters +
                          ledger.communicated.gathered_gradients);
            EXPECT_EQ(ledger.resident.scratch, 0);
            EXPECT_EQ(saved[static_cast<size_t>(rank)].resident.scratch, expected.scratch);
            EXPECT_EQ(saved[static_cast<size_t>(rank)].communicated.gathered_state, expected.gathered_state);
          }
        }
      }
    }
  }
}

TEST(RunTest, GradientsAreThoseOfAutogradOverTheWholeGraph) {
  const auto collective = NewSingleRankCollective();
  GangOptions options;
  ToyRank rank(options, collective.get());
  const model::MicroBatch batch = ToyBatch(options.toy, 1, 0, 2);
  const auto objective = NewCrossEntropy(0.1, options.toy.vocabulary).value();
  RunInputs inputs;
  inputs.batch = &batch;
  inputs.objective = objective.get();
  inputs.global.target_weight = 4.0;
  const RunResult result = train::Run(rank.training()->schedule(true), rank.store(), inputs, RealClock()).value();
  ASSERT_TRUE(rank.store()->queue()->Drain().ok());

  const auto weights = AllWeights(rank.store());
  std::vector<at::Tensor> leaves, values(rank.graph().values.size());
  for (const model::ParamSpec& spec : rank.graph().params) leaves.push_back(weights.at(spec.name).requires_grad_(true));
  model::UnitContext context;
  context.batch = &batch;
  for (const model::Node& node : rank.graph().nodes) {
    model::Params params;
    model::Values in;
    for (model::ParamId param : node.params) params.push_back(leaves[static_cast<size_t>(param)]);
    for (model::ValueId value : node.in) in.push_back(values[static_cast<size_t>(value)]);
    const model::Values out = node.unit->Forward(context, params, in);
    for (size_t i = 0; i < out.size(); ++i) values[static_cast<size_t>(node.out[i])] = out[i];
  }
  std::vector<at::Tensor> results;
  for (model::ValueId value : rank.graph().results) results.push_back(values[static_cast<size_t>(value)]);
  const at::Tensor smooth = 0.1 * (results[1] - results[2]) - 0.9 * results[0];
  const at::Tensor loss = (smooth * batch.target_weight_K).sum() / 4.0;
  EXPECT_NEAR(result.loss, loss.item<double>(), 1e-5);
  const auto expected = torch::autograd::grad({loss}, leaves, {}, false, false, /*allow_unused=*/true);
  for (size_t i = 0; i < leaves.size(); ++i) {
    const BucketId bucket = rank.store()->BucketOf(static_cast<model::ParamId>(i));
    EXPECT_EQ(rank.store()->Optimized(bucket), expected[i].defined()) << rank.graph().params[i].name;
    if (!expected[i].defined()) continue;
    for (const ParamRange& range : rank.store()->buckets()[static_cast<size_t>(bucket)].ranges) {
      if (range.param != static_cast<model::ParamId>(i)) continue;
      const at::Tensor got = rank.store()->AccumulatedShard(bucket).narrow(0, range.offset, range.end);
      const double scale = expected[i].norm().item<double>();
      EXPECT_LE((got - expected[i].flatten()).norm().item<double>(), 1e-5 * scale) << rank.graph().params[i].name;
      EXPECT_GT(scale, 0);
    }
  }
  EXPECT_FALSE(result.nodes_run[1]);  // vision.post, which no result needs
}

TEST(RunTest, ExceptionsOfLibTorchBecomeStatusesThatNameTheNode) {
  const auto collective = NewSingleRankCollective();
  GangOptions options;
  ToyRank rank(options, collective.get());
  model::MicroBatch batch = ToyBatch(options.toy, 1, 0, 1);
  batch.ids_N = batch.ids_N + 1000;
  const auto objective = NewCrossEntropy(0, 0).value();
  RunInputs inputs;
  inputs.batch = &batch;
  inputs.objective = objective.get();
  const auto result = train::Run(rank.training()->schedule(true), rank.store(), inputs, RealClock());
  ASSERT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(result.status().message().find("forward of node llm.embed failed"), absl::string_view::npos);
}

// Peak of activations of one micro-batch of the small LLaVA with so many layers.
int64_t Activations(const LlavaRunOptions& small, int64_t text_layers, int64_t vision_layers) {
  LlavaRunOptions options = small;
  options.config.text.num_hidden_layers = text_layers;
  options.config.vision.num_hidden_layers = vision_layers;
  options.micro_batches = 1;
  options.measure_activations = true;
  LlavaRun run(options);
  (void)run.Step();  // what LibTorch keeps of a first call is no activation
  (void)run.Step();
  return run.store()->ledger().resident.activations;
}

// The formulas of train/ledger.h: everything that a block keeps lives when the head runs, so one block more raises the
// peak by just that.
TEST(LedgerTest, ActivationsGrowByWhatABlockKeeps) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.documents = {{options.config.ImageTokens() + 7, 1}, {9, 0}, {options.config.ImageTokens() + 4, 1}};
  const model::TextConfig& text = options.config.text;
  const model::VisionConfig& vision = options.config.vision;
  const int64_t n = 2 * options.config.ImageTokens() + 7 + 9 + 4, v = 2 * vision.Patches();
  const int64_t d = text.hidden_size, h = text.num_attention_heads, g = text.num_key_value_heads, e = text.HeadSize();
  const int64_t decoder = 4 * n * (4 * d + (2 * h + 2 * g) * e + h + 3 * text.intermediate_size + 2);
  const int64_t c = vision.hidden_size;
  const int64_t encoder = 4 * v * (8 * c + vision.num_attention_heads + 2 * vision.intermediate_size + 4);
  for (const bool recompute : {false, true}) {
    options.recompute = recompute;
    const int64_t base = Activations(options, 2, 3);
    EXPECT_EQ(Activations(options, 3, 3) - base, recompute ? 4 * n * d : decoder) << "recompute " << recompute;
    EXPECT_EQ(Activations(options, 5, 3) - base, 3 * (recompute ? 4 * n * d : decoder)) << "recompute " << recompute;
    EXPECT_EQ(Activations(options, 2, 4) - base, recompute ? 4 * v * c : encoder) << "recompute " << recompute;
  }
}

class BrokenObjective final : public Objective {
 public:
  explicit BrokenObjective(std::function<void()> fail) : fail_(std::move(fail)) {}
  std::optional<model::TokenCoefficients> Known(const model::MicroBatch&, const GlobalCounts&) const override {
    return std::nullopt;
  }
  double Loss(const model::Values&, const model::MicroBatch&, const GlobalCounts&) const override {
    fail_();
    return 0;
  }
  model::Values Seeds(const model::MicroBatch&, const GlobalCounts&) const override { return {}; }

 private:
  const std::function<void()> fail_;
};

TEST(RunTest, MemoryIsToldApartFromOtherExceptions) {
  const auto collective = NewSingleRankCollective();
  const GangOptions options;
  const auto status_of = [&](const std::function<void()>& fail) {
    ToyRank rank(options, collective.get());
    const model::MicroBatch batch = ToyBatch(options.toy, 1, 4, 1);
    const BrokenObjective objective(fail);
    RunInputs inputs;
    inputs.batch = &batch;
    inputs.objective = &objective;
    return train::Run(rank.training()->schedule(true), rank.store(), inputs, RealClock()).status();
  };
  const std::function<void()> memory[] = {
      [] { throw std::bad_alloc(); }, [] { at::empty({int64_t{1} << 50}, at::kFloat); },  // LibTorch's own allocator
      [] { TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate 2.00 GiB"); },
      [] { TORCH_CHECK(false, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"); }};
  for (const std::function<void()>& fail : memory) {
    const absl::Status status = status_of(fail);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_TRUE(IsOutOfMemory(status)) << status;
    EXPECT_NE(status.message().find("loss of micro-batch 4 failed: "), absl::string_view::npos) << status;
  }
  for (const std::function<void()>& fail :
       {std::function<void()>([] { TORCH_CHECK(false, "shapes differ"); }), std::function<void()>([] { throw 7; })}) {
    const absl::Status status = status_of(fail);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_FALSE(IsOutOfMemory(status)) << status;
  }
}

}  // namespace
}  // namespace vlm::train
