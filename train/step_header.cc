#include "train/step_header.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace vlm::train {
namespace {

constexpr uint64_t kMagic = 0x3372656461656856;  // "Vheader3"
constexpr size_t kPlanHashBytesMax = 64;
constexpr uint64_t kMicroBatchesMax = 1 << 20;   // of one rank and step; more is a corrupt header
constexpr uint64_t kBadPicturesMax = 1 << 24;    // likewise
constexpr int64_t kCountMax = int64_t{1} << 31;  // of one micro-batch, likewise; so that no step's sum overflows

// Ranks are the same build on the same kind of machine; native byte order.
struct WirePrefix {
  uint64_t magic, step, plan_hash_bytes, micro_batches, bad_pictures;
};
struct WireMicroBatch {
  int64_t global_index, tokens, targets, documents, images, vision_tokens;
  double target_weight;
};
static_assert(std::is_trivially_copyable_v<WirePrefix> && std::is_trivially_copyable_v<WireMicroBatch>);

void AddCounts(const model::Counts& counts, model::Counts* totals) {
  totals->tokens += counts.tokens;
  totals->targets += counts.targets;
  totals->documents += counts.documents;
  totals->images += counts.images;
  totals->vision_tokens += counts.vision_tokens;
}

absl::Status CheckAgreement(const std::vector<RankHeader>& by_rank) {
  for (size_t rank = 1; rank < by_rank.size(); ++rank) {
    if (by_rank[rank].step != by_rank[0].step) {
      return absl::FailedPreconditionError(absl::StrCat("ranks disagree about the step: rank 0 announces step ",
                                                        by_rank[0].step, ", rank ", rank, " announces step ",
                                                        by_rank[rank].step));
    }
    if (by_rank[rank].plan_hash != by_rank[0].plan_hash) {
      return absl::FailedPreconditionError(absl::StrCat(
          "ranks planned different schedules, check that all run the same build and job file: step ", by_rank[0].step,
          ", rank 0 has ", by_rank[0].plan_hash, ", rank ", rank, " has ", by_rank[rank].plan_hash));
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool operator==(const MicroBatchHeader& a, const MicroBatchHeader& b) {
  return a.global_index == b.global_index && a.counts.tokens == b.counts.tokens &&
         a.counts.targets == b.counts.targets && a.counts.documents == b.counts.documents &&
         a.counts.images == b.counts.images && a.counts.vision_tokens == b.counts.vision_tokens &&
         a.target_weight == b.target_weight;
}

int64_t StepHeader::MicroSteps(int world) const {
  return (static_cast<int64_t>(micro_batches.size()) + world - 1) / world;
}

bool StepHeader::HasImages(int64_t micro_step, int world) const {
  const int64_t end = std::min<int64_t>((micro_step + 1) * world, static_cast<int64_t>(micro_batches.size()));
  for (int64_t m = micro_step * world; m < end; ++m) {
    if (micro_batches[m].counts.images > 0) return true;
  }
  return false;
}

MicroBatchHeader Describe(const model::MicroBatch& batch) {
  MicroBatchHeader header{batch.global_index, batch.counts, 0};
  if (!batch.target_weight_K.defined()) return header;
  const at::Tensor weight_K = batch.target_weight_K.to(at::kCPU, at::kFloat).contiguous();
  const float* weight = weight_K.const_data_ptr<float>();
  for (int64_t k = 0; k < weight_K.numel(); ++k) header.target_weight += double{weight[k]};
  return header;
}

std::string EncodeRankHeader(const RankHeader& header) {
  const WirePrefix prefix{kMagic, header.step, header.plan_hash.size(), header.micro_batches.size(),
                          header.bad_pictures.size()};
  std::string bytes(reinterpret_cast<const char*>(&prefix), sizeof(prefix));
  bytes += header.plan_hash;
  for (const MicroBatchHeader& m : header.micro_batches) {
    const WireMicroBatch wire{m.global_index,  m.counts.tokens,        m.counts.targets, m.counts.documents,
                              m.counts.images, m.counts.vision_tokens, m.target_weight};
    bytes.append(reinterpret_cast<const char*>(&wire), sizeof(wire));
  }
  bytes.append(reinterpret_cast<const char*>(header.bad_pictures.data()),
               header.bad_pictures.size() * sizeof(uint64_t));
  return bytes;
}

absl::StatusOr<RankHeader> DecodeRankHeader(std::string_view bytes) {
  WirePrefix prefix;
  if (bytes.size() < sizeof(prefix)) return absl::DataLossError("step header is cut off");
  std::memcpy(&prefix, bytes.data(), sizeof(prefix));
  bytes.remove_prefix(sizeof(prefix));
  if (prefix.magic != kMagic || prefix.plan_hash_bytes > kPlanHashBytesMax || prefix.micro_batches > kMicroBatchesMax ||
      prefix.bad_pictures > kBadPicturesMax ||
      bytes.size() != prefix.plan_hash_bytes + prefix.micro_batches * sizeof(WireMicroBatch) +
                          prefix.bad_pictures * sizeof(uint64_t)) {
    return absl::DataLossError("step header is not one of this version");
  }
  RankHeader header{prefix.step, std::string(bytes.substr(0, prefix.plan_hash_bytes)), {}, {}};
  bytes.remove_prefix(prefix.plan_hash_bytes);
  for (uint64_t i = 0; i < prefix.micro_batches; ++i) {
    WireMicroBatch w;
    std::memcpy(&w, bytes.data() + i * sizeof(w), sizeof(w));
    for (const int64_t count : {w.tokens, w.targets, w.documents, w.images, w.vision_tokens}) {
      if (count >= 0 && count <= kCountMax) continue;
      return absl::DataLossError(absl::StrCat("step header has a count that no micro-batch has: ", count));
    }
    header.micro_batches.push_back(
        {w.global_index, {w.tokens, w.targets, w.documents, w.images, w.vision_tokens}, w.target_weight});
  }
  bytes.remove_prefix(prefix.micro_batches * sizeof(WireMicroBatch));
  header.bad_pictures.resize(prefix.bad_pictures);
  if (!bytes.empty()) std::memcpy(header.bad_pictures.data(), bytes.data(), bytes.size());
  return header;
}

absl::StatusOr<StepHeader> JoinHeaders(const std::vector<RankHeader>& by_rank) {
  VLM_RETURN_IF_ERROR(CheckAgreement(by_rank));
  const int64_t world = static_cast<int64_t>(by_rank.size());
  int64_t total = 0;
  StepHeader step;
  for (const RankHeader& header : by_rank) {
    total += static_cast<int64_t>(header.micro_batches.size());
    step.bad_pictures.insert(step.bad_pictures.end(), header.bad_pictures.begin(), header.bad_pictures.end());
  }
  std::sort(step.bad_pictures.begin(), step.bad_pictures.end());
  step.bad_pictures.erase(std::unique(step.bad_pictures.begin(), step.bad_pictures.end()), step.bad_pictures.end());
  step.step = by_rank[0].step;
  for (int64_t m = 0; m < total; ++m) {
    const std::vector<MicroBatchHeader>& mine = by_rank[m % world].micro_batches;
    const size_t position = static_cast<size_t>(m / world);
    if (position >= mine.size() || mine[position].global_index != m) {
      return absl::InvalidArgumentError(absl::StrCat(
          "micro-batches must be 0 to M-1, m on rank m mod world: step ", step.step, ", M ", total, ", world ", world,
          ", rank ", m % world,
          position < mine.size() ? absl::StrCat(" has ", mine[position].global_index, " where ", m, " belongs")
                                 : absl::StrCat(" lacks ", m)));
    }
    const MicroBatchHeader& entry = mine[position];
    if (entry.counts.tokens < 1 || entry.counts.targets < 1) {
      return absl::InvalidArgumentError(absl::StrCat("micro-batch without a token or without a target: step ",
                                                     step.step, ", micro-batch ", m, ", tokens ", entry.counts.tokens,
                                                     ", targets ", entry.counts.targets));
    }
    if (!std::isfinite(entry.target_weight) || entry.target_weight < 0) {
      return absl::InvalidArgumentError(absl::StrCat("target weights must be finite and not negative: step ", step.step,
                                                     ", micro-batch ", m, " sums to ", entry.target_weight));
    }
    step.micro_batches.push_back(entry);
    step.target_weight += entry.target_weight;
    AddCounts(entry.counts, &step.totals);
  }
  if (!std::isfinite(step.target_weight)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the target weights' sum overflows: step ", step.step, ", micro-batches ", total));
  }
  if (step.target_weight == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no target in the whole step, so there is nothing to train on: step ", step.step,
                     ", micro-batches ", total, ", pictures that do not decode ", step.bad_pictures.size()));
  }
  return step;
}

absl::StatusOr<StepHeader> ExchangeHeader(const RankHeader& mine, Collective* collective) {
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                       collective->AllGatherBytes(EncodeRankHeader(mine), "step header"));
  std::vector<RankHeader> by_rank;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    absl::StatusOr<RankHeader> header = DecodeRankHeader(all[rank]);
    if (!header.ok()) return Annotate(header.status(), absl::StrCat("rank ", rank));
    by_rank.push_back(*std::move(header));
  }
  return JoinHeaders(by_rank);
}

}  // namespace vlm::train
