// Families and keys of the catalog's rows. Integers are big-endian, so scans follow their order.
#ifndef VLM_CHECKPOINT_CORE_CATALOG_KEYS_H_
#define VLM_CHECKPOINT_CORE_CATALOG_KEYS_H_

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm::checkpoint {

constexpr std::string_view kMetaFamily = "meta";          // "catalog_uuid" -> 16 bytes, "format" -> decimal
constexpr std::string_view kStageFamily = "stage";        // stage_uid -> StageRow
constexpr std::string_view kStepFamily = "step";          // stage_uid, step, fence -> StepRow
constexpr std::string_view kPartFamily = "part";          // stage_uid, step, fence, rank -> PartRow
constexpr std::string_view kArtifactFamily = "artifact";  // digest, stage_uid -> ArtifactRow
constexpr std::string_view kHoldFamily = "hold";          // stage_uid, step, fence, kind, holder -> empty
std::vector<std::string> CatalogFamilies();

constexpr std::string_view kUuidKey = "catalog_uuid";
constexpr std::string_view kFormatKey = "format";
constexpr int kCatalogFormat = 1;

constexpr size_t kStageUidBytes = 16;

struct StepKey {
  std::string stage_uid;
  uint64_t step = 0;
  uint64_t fence = 0;
  friend auto operator<=>(const StepKey&, const StepKey&) = default;
};

enum class HoldKind : uint8_t { kResume = 1, kOutput = 2 };

// A reference that keeps a step from being deleted; references are rows, not counters.
struct Hold {
  HoldKind kind = HoldKind::kResume;
  uint64_t holder = 0;  // kResume: the attempt's fence; kOutput: 0
  friend auto operator<=>(const Hold&, const Hold&) = default;
};
std::string HoldName(const Hold& hold);  // "RESUME(17)", "OUTPUT"

std::string EncodeStepKey(const StepKey& key);
std::string EncodePartKey(const StepKey& key, uint32_t rank);
std::string EncodeHoldKey(const StepKey& key, const Hold& hold);
std::string EncodeArtifactKey(std::string_view digest_hex, std::string_view stage_uid);

// DATA_LOSS for bytes that are no such key.
absl::StatusOr<StepKey> DecodeStepKey(std::string_view bytes);
struct PartKey {
  StepKey step;
  uint32_t rank = 0;
};
absl::StatusOr<PartKey> DecodePartKey(std::string_view bytes);
struct HoldKey {
  StepKey step;
  Hold hold;
};
absl::StatusOr<HoldKey> DecodeHoldKey(std::string_view bytes);

// "<root>/jobs/<job_id>/<stage>/step-00000500-f00000017": a path belongs to one attempt and is never reused.
std::string StepFolder(std::string_view root, std::string_view job_id, std::string_view stage, const StepKey& key);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CORE_CATALOG_KEYS_H_
