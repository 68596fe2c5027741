#include "train/memory_estimate.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "gang_run.h"
#include "llava_run.h"
#include "must.h"
#include "train/checkpoint_state.h"
#include "train/reusing_allocator.h"

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

// The schedule's plan as the trainer makes it.
Schedule PlanOf(const LlavaRunOptions& options, LlavaRun* run, bool pictures) {
  PlanOptions plan;
  plan.recompute = options.recompute;
  plan.release_after_use = run->store()->shards_parameters();
  return Plan(run->graph(), run->store()->buckets(), pictures, plan);
}

ResidentBytes Estimated(const LlavaRunOptions& options, LlavaRun* run) {
  const model::Counts counts = model::testing::RandomBatch(options.config, options.documents, 1).counts;
  return EstimateMemory(run->graph(), run->store()->buckets(), PlanOf(options, run, counts.images > 0),
                        {run->store()->options(), run->store()->world()}, counts);
}

struct Measured {
  int64_t activations = 0;  // as the run itself counts
  ResidentBytes estimated;
};

Measured MeasureActivations(LlavaRunOptions options) {
  options.micro_batches = 1;
  options.same_batches = true;
  options.measure_activations = true;
  LlavaRun run(options);
  (void)run.Step();
  (void)run.Step();
  return {run.store()->ledger().resident.activations, Estimated(options, &run)};
}

// As the trainer's: LibTorch's CPU allocator while it lives, and all tensors that it hands out are gone before.
class InstalledAllocator {
 public:
  InstalledAllocator() : before_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(&allocator_, kPriority); }
  ~InstalledAllocator() { c10::SetCPUAllocator(before_, kPriority); }
  ReusingAllocator::Usage usage() const { return allocator_.usage(); }

 private:
  static constexpr uint8_t kPriority = 1;
  ReusingAllocator allocator_;
  c10::Allocator* const before_;
};

void ExpectWithin(double share, int64_t estimated, int64_t measured, const std::string& what) {
  EXPECT_LE(std::abs(static_cast<double>(estimated - measured)), share * static_cast<double>(measured))
      << what << ": estimated " << estimated << ", measured " << measured;
}

int64_t CopiedBytes(const std::vector<FileImage>& images) {
  int64_t bytes = 0;
  for (const FileImage& file : images) {
    for (const TensorImage& tensor : file.tensors) bytes += static_cast<int64_t>(tensor.bytes().size());
  }
  return bytes;
}

// What `vlmctl model show` prints, for counts of its own, against what the trainer's allocator hands out to all ranks
// from the model's making to the end of a step that a save's snapshot outlasts. The printed figure itself, against real
// stages: tests/integration/stages/memory_test.cc.
TEST(MemoryEstimateTest, IsWithinTenPerCentOfTheAllocatorsPeak) {
  LlavaRunOptions options;
  options.config = LargeLlava();
  options.same_batches = true;
  const int64_t picture = options.config.ImageTokens();
  options.documents = {{picture + 100, 1}, {picture + 60, 1}, {200, 0}};
  for (const int world : {1, 2}) {
    options.zero = world == 1 ? ZeroLevel::kZero2 : ZeroLevel::kZero3;
    options.micro_batches = world;
    for (const bool recompute : {false, true}) {
      options.recompute = recompute;
      const InstalledAllocator allocator;
      std::vector<int64_t> estimated(static_cast<size_t>(world), 0);
      RunConnected(std::nullopt, world, [&](Collective* collective) {
        LlavaRun run(options, collective);
        int64_t elements = 0;
        for (const model::ParamSpec& spec : run.graph().params) elements += NumElements(spec.shape);
        EXPECT_GE(elements, 50'000'000);
        (void)run.Step();
        const std::vector<FileImage> snapshot = Must(SaveState(PlanState(*run.store(), {}), run.store()));
        (void)run.Step();
        ResidentBytes bytes = Estimated(options, &run);
        if (world > 1) bytes.snapshot = CopiedBytes(snapshot);  // the estimate has the largest rank's, not each one's
        estimated[static_cast<size_t>(collective->rank())] = PeakBytes(bytes);
      });
      const ReusingAllocator::Usage usage = allocator.usage();
      const std::string what = absl::StrCat("world ", world, recompute ? ", recomputing" : ", saving activations");
      ExpectWithin(0.1, std::accumulate(estimated.begin(), estimated.end(), int64_t{0}),
                   static_cast<int64_t>(usage.used_bytes_peak), what);
      GTEST_LOG_(INFO) << what << ": handed out " << usage.used_bytes_peak << " at most, mapped "
                       << usage.mapped_bytes_peak;
    }
  }
}

// Whose bytes are copied when saves are dealt, frozen weights among them.
TEST(MemoryEstimateTest, TheSnapshotIsTheLargestRanks) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.documents = {{options.config.ImageTokens() + 7, 1}, {9, 0}};
  options.trainable = {"connector", "llm"};
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    options.compute = compute;
    for (const int world : {1, 2, 3}) {
      std::vector<int64_t> copied(static_cast<size_t>(world), 0);
      int64_t estimated = 0;
      RunConnected(std::nullopt, world, [&](Collective* collective) {
        LlavaRun run(options, collective);
        const auto rank = static_cast<size_t>(collective->rank());
        copied[rank] = CopiedBytes(Must(SaveState(PlanState(*run.store(), {}), run.store())));
        if (rank == 0) estimated = Estimated(options, &run).snapshot;
      });
      EXPECT_EQ(estimated, *std::max_element(copied.begin(), copied.end())) << world << " ranks";
      EXPECT_GT(estimated, 0);
    }
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
      const Measured measured = MeasureActivations(options);
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
          (void)Must(SaveState(PlanState(*run.store(), {}), run.store()));
          const auto rank = static_cast<size_t>(collective->rank());
          ledgers[rank] = run.store()->ledger();
          estimates[rank] = Estimated(options, &run);
        });
        for (size_t rank = 0; rank < ledgers.size(); ++rank) {
          const ResidentBytes &held = ledgers[rank].resident, &expected = estimates[rank];
          EXPECT_EQ(expected.parameters, held.parameters);
          EXPECT_EQ(expected.gathered, held.gathered);
          EXPECT_EQ(expected.gradients, held.gradients);
          EXPECT_EQ(expected.master, held.master);
          EXPECT_EQ(expected.moments, held.moments);
          EXPECT_EQ(expected.scratch, held.scratch);
        }
      }
    }
  }
}

}  // namespace
}  // namespace vlm::train
