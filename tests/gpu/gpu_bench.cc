// Measures the training step, whose peers are tests/bench/gpu_step_peer.py's, and NCCL's fixed cost on one GPU. Prints
// lines "NAME<tab>VALUE<tab>UNIT" for scripts/gpu-check; ends with 77 and a reason where no GPU is usable.
#include <ATen/ATen.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "base/check.h"
#include "tests/unit/train/llava_run.h"
#include "train/cuda/cuda_library.h"

namespace vlm::train {
namespace {

constexpr int kSkipped = 77;
constexpr int kWarmUpSteps = 3, kSteps = 10, kOperations = 200;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Print(const std::string& name, double value, const char* unit) {
  std::printf("%s\t%.4g\t%s\n", name.c_str(), value, unit);
  std::fflush(stdout);
}

// About 0.3 billion parameters: large enough that kernels, not launches, take the time.
LlavaRunOptions MiddleSized(at::ScalarType compute) {
  LlavaRunOptions options;
  options.config.text = {.vocab_size = 32001,
                         .hidden_size = 1024,
                         .intermediate_size = 2816,
                         .num_hidden_layers = 16,
                         .num_attention_heads = 16,
                         .num_key_value_heads = 4,
                         .tie_word_embeddings = true};
  options.config.vision = {.hidden_size = 768,
                           .intermediate_size = 3072,
                           .num_hidden_layers = 12,
                           .num_attention_heads = 12,
                           .image_size = 224,
                           .patch_size = 16};
  options.config.image_token_index = 32000;
  options.documents = {{700, 1}, {700, 1}, {700, 1}, {700, 1}};
  options.device = at::kCUDA;
  options.compute = compute;
  options.micro_batches = 1;
  options.same_batches = true;
  return options;
}

std::unique_ptr<Collective> OneNcclRank() {
  const NcclBackend* const backend = LoadNcclBackend().value();
  absl::StatusOr<std::unique_ptr<Collective>> collective =
      backend->Connect({.unique_id = backend->NewUniqueId().value()}, NewSingleRankCollective());
  VLM_CHECK(collective.ok(), std::string(collective.status().message()));
  return *std::move(collective);
}

// Brings one number to the host: everything enqueued is done then.
void Settle(LlavaRun* run) { (void)run->store()->ReadParameter(0).value().sum().item<float>(); }

void MeasureStep(const std::string& name, const LlavaRunOptions& options, std::unique_ptr<Collective> collective) {
  LlavaRun run(options, std::move(collective));
  for (int i = 0; i < kWarmUpSteps; ++i) run.Step();
  Settle(&run);
  const auto start = std::chrono::steady_clock::now();
  int64_t tokens = 0;
  for (int i = 0; i < kSteps; ++i) tokens += run.Step().totals.tokens;
  Settle(&run);
  const double seconds = SecondsSince(start);
  Print(name + " step", 1e3 * seconds / kSteps, "ms");
  Print(name + " tokens", static_cast<double>(tokens) / seconds, "tokens/s");
}

void MeasureNccl() {
  const std::unique_ptr<Collective> collective = OneNcclRank();
  for (const int64_t kib : {64, 1024, 65536}) {
    const int64_t numel = kib * 1024 / 4;
    const at::Tensor send = at::ones({numel}, at::kCUDA), accumulator = at::zeros({numel}, at::kCUDA);
    VLM_CHECK(collective->ReduceScatterAdd(send, true, accumulator, "warm-up").ok(), "one rank cannot disagree");
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kOperations; ++i) {
      VLM_CHECK(collective->ReduceScatterAdd(send, true, accumulator, "bench").ok(), "one rank cannot disagree");
    }
    Print("reduce-scatter, 1 rank, " + std::to_string(kib) + " KiB", 1e6 * SecondsSince(start) / kOperations, "us");
  }
}

int Main() {
  const absl::Status status = LoadCudaDevices();
  if (!status.ok()) {
    std::printf("SKIPPED: %s\n", std::string(status.message()).c_str());
    return kSkipped;
  }
  MeasureStep("fp32", MiddleSized(at::kFloat), nullptr);
  MeasureStep("bf16", MiddleSized(at::kBFloat16), nullptr);
  LlavaRunOptions overlapped = MiddleSized(at::kBFloat16);
  overlapped.overlap = true;
  MeasureStep("bf16, NCCL, overlap", overlapped, OneNcclRank());
  MeasureNccl();
  return 0;
}

}  // namespace
}  // namespace vlm::train

int main() { return vlm::train::Main(); }
