#include "train/memory_estimate.h"

#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "gang_run.h"
#include "llava_run.h"
#include "train/allocation_counter.h"

namespace vlm::train {
namespace {

// More than 50 million parameters.
model::LlavaConfig LargeLlava() {
  model::LlavaConfig config;
  config.text = {.vocab_size = 32000,
                 .hidden_size = 768,
                 .intermediate_size = 2048,
                 .num_hidden_layers = 4,
                 .num_attention_heads = 12,
                 .num_key_value_heads = 4,
                 .rope_theta = 10000.0,
                 .tie_word_embeddings = true};
  config.vision = {.hidden_size = 256,
                   .intermediate_size = 1024,
                   .num_hidden_layers = 3,
                   .num_attention_heads = 4,
                   .image_size = 96,
                   .patch_size = 8};
  config.image_token_index = 5;
  return config;
}

struct Measured {
  int64_t allocated = 0;    // peak of everything, from the model's making to the second step's end
  int64_t activations = 0;  // as the run itself counts
  ResidentBytes estimated;
  int64_t elements = 0;
};

Measured Measure(const LlavaRunOptions& run_options) {
  LlavaRunOptions options = run_options;
  options.micro_batches = 1;
  options.same_batches = true;
  const auto allocated = std::make_shared<AllocationCounter>();
  Measured measured;
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, allocated);
    LlavaRun run(options);
    (void)run.Step();
    (void)run.Step();
    measured.allocated = allocated->peak();
  }
  options.measure_activations = true;
  LlavaRun run(options);
  (void)run.Step();
  (void)run.Step();
  measured.activations = run.store()->ledger().resident.activations;
  const model::MicroBatch batch = model::testing::RandomBatch(options.config, options.documents, 1);
  const model::Graph& graph = run.graph();
  PlanOptions plan;
  plan.recompute = options.recompute;
  const std::vector<BucketSpec>& buckets = run.store()->buckets();
  measured.estimated = EstimateMemory(graph, buckets, Plan(graph, buckets, batch.counts.images > 0, plan),
                                      {run.store()->options(), /*world=*/1}, batch.counts);
  for (const model::ParamSpec& spec : graph.params) measured.elements += NumElements(spec.shape);
  return measured;
}

int64_t Total(const ResidentBytes& bytes) {
  return bytes.parameters + bytes.gathered + bytes.gradients + bytes.master + bytes.moments + bytes.activations;
}

void ExpectWithin(double share, int64_t estimated, int64_t measured, const std::string& what) {
  EXPECT_LE(std::abs(static_cast<double>(estimated - measured)), share * static_cast<double>(measured))
      << what << ": estimated " << estimated << ", measured " << measured;
}

// The figure that `vlmctl model show` prints, against LibTorch's allocator.
TEST(MemoryEstimateTest, IsWithinTenPerCentOfTheAllocatorsPeak) {
  LlavaRunOptions options;
  options.config = LargeLlava();
  const int64_t picture = options.config.ImageTokens();
  options.documents = {{picture + 100, 1}, {picture + 60, 1}, {200, 0}};
  for (const bool recompute : {false, true}) {
    options.recompute = recompute;
    const Measured measured = Measure(options);
    EXPECT_GE(measured.elements, 50'000'000);
    ExpectWithin(0.1, Total(measured.estimated), measured.allocated, recompute ? "recomputing" : "saving");
  }
}

// Activations alone, where they matter most: a small model and many tokens; text only, too.
TEST(MemoryEstimateTest, ActivationsAreWithinTenPerCent) {
  LlavaRunOptions options;
  options.config = LargeLlava();
  options.config.text.vocab_size = 2000;
  options.config.text.hidden_size = 256;
  options.config.text.intermediate_size = 704;
  options.config.text.num_attention_heads = 4;
  options.config.text.num_key_value_heads = 2;
  options.config.text.num_hidden_layers = 5;
  const int64_t picture = options.config.ImageTokens();
  for (const bool pictures : {true, false}) {
    options.documents = {{300, 0}, {400, 0}, {500, 0}};
    if (pictures) options.documents = {{picture + 100, 1}, {picture + 200, 1}, {300, 0}, {2 * picture + 50, 2}};
    for (const bool recompute : {false, true}) {
      options.recompute = recompute;
      const Measured measured = Measure(options);
      ExpectWithin(0.1, measured.estimated.activations, measured.activations,
                   std::string(pictures ? "pictures" : "text") + (recompute ? ", recomputing" : ", saving"));
    }
  }
}

// What the store holds is not estimated but known.
TEST(MemoryEstimateTest, ResidentClassesAreTheLedgers) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.documents = {{options.config.ImageTokens() + 7, 1}, {9, 0}};
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    for (const ZeroLevel zero : {ZeroLevel::kZero0, ZeroLevel::kZero1, ZeroLevel::kZero2, ZeroLevel::kZero3}) {
      for (const int world : {1, 2}) {
        options.compute = compute;
        options.zero = zero;
        std::vector<Ledger> ledgers(static_cast<size_t>(world));
        std::vector<ResidentBytes> estimates(static_cast<size_t>(world));
        RunConnected(std::nullopt, world, [&](Collective* collective) {
          LlavaRun run(options, collective);
          (void)run.Step();
          PlanOptions plan;
          plan.release_after_use = run.store()->shards_parameters();
          const std::vector<BucketSpec>& buckets = run.store()->buckets();
          const auto rank = static_cast<size_t>(collective->rank());
          ledgers[rank] = run.store()->ledger();
          estimates[rank] = EstimateMemory(run.graph(), buckets, Plan(run.graph(), buckets, true, plan),
                                           {run.store()->options(), world}, {});
        });
        for (size_t rank = 0; rank < ledgers.size(); ++rank) {
          const ResidentBytes &held = ledgers[rank].resident, &expected = estimates[rank];
          EXPECT_EQ(expected.parameters, held.parameters);
          EXPECT_EQ(expected.gathered, held.gathered);
          EXPECT_EQ(expected.gradients, held.gradients);
          EXPECT_EQ(expected.master, held.master);
          EXPECT_EQ(expected.moments, held.moments);
        }
      }
    }
  }
}

}  // namespace
}  // namespace vlm::train
