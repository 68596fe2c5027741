#include "checkpoint/core/catalog_keys.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vlm::checkpoint {
namespace {

void AppendBigEndian(uint64_t value, int bytes, std::string* out) {
  for (int i = bytes - 1; i >= 0; --i) *out += static_cast<char>(value >> (8 * i) & 0xff);
}

uint64_t ReadBigEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (const unsigned char byte : bytes) value = value << 8 | byte;
  return value;
}

constexpr size_t kStepKeyBytes = kStageUidBytes + 8 + 8;
constexpr size_t kPartKeyBytes = kStepKeyBytes + 4;
constexpr size_t kHoldKeyBytes = kStepKeyBytes + 1 + 8;

absl::Status BadKey(std::string_view family, size_t bytes) {
  return absl::DataLossError(
      absl::StrCat("catalog key has an impossible form in family ", std::string(family), ": ", bytes, " bytes"));
}

StepKey StepKeyOf(std::string_view bytes) {
  return {std::string(bytes.substr(0, kStageUidBytes)), ReadBigEndian(bytes.substr(kStageUidBytes, 8)),
          ReadBigEndian(bytes.substr(kStageUidBytes + 8, 8))};
}

}  // namespace

std::vector<std::string> CatalogFamilies() {
  return {std::string(kMetaFamily), std::string(kStageFamily),    std::string(kStepFamily),
          std::string(kPartFamily), std::string(kArtifactFamily), std::string(kHoldFamily)};
}

std::string HoldName(const Hold& hold) {
  return hold.kind == HoldKind::kOutput ? "OUTPUT" : absl::StrCat("RESUME(", hold.holder, ")");
}

std::string EncodeStepKey(const StepKey& key) {
  std::string bytes = key.stage_uid;
  AppendBigEndian(key.step, 8, &bytes);
  AppendBigEndian(key.fence, 8, &bytes);
  return bytes;
}

std::string EncodePartKey(const StepKey& key, uint32_t rank) {
  std::string bytes = EncodeStepKey(key);
  AppendBigEndian(rank, 4, &bytes);
  return bytes;
}

std::string EncodeHoldKey(const StepKey& key, const Hold& hold) {
  std::string bytes = EncodeStepKey(key);
  AppendBigEndian(static_cast<uint64_t>(hold.kind), 1, &bytes);
  AppendBigEndian(hold.holder, 8, &bytes);
  return bytes;
}

std::string EncodeArtifactKey(std::string_view digest_hex, std::string_view stage_uid) {
  return std::string(digest_hex) + std::string(stage_uid);
}

absl::StatusOr<StepKey> DecodeStepKey(std::string_view bytes) {
  if (bytes.size() != kStepKeyBytes) return BadKey(kStepFamily, bytes.size());
  return StepKeyOf(bytes);
}

absl::StatusOr<PartKey> DecodePartKey(std::string_view bytes) {
  if (bytes.size() != kPartKeyBytes) return BadKey(kPartFamily, bytes.size());
  return PartKey{StepKeyOf(bytes), static_cast<uint32_t>(ReadBigEndian(bytes.substr(kStepKeyBytes)))};
}

absl::StatusOr<HoldKey> DecodeHoldKey(std::string_view bytes) {
  if (bytes.size() != kHoldKeyBytes) return BadKey(kHoldFamily, bytes.size());
  const uint64_t kind = ReadBigEndian(bytes.substr(kStepKeyBytes, 1));
  if (kind != static_cast<uint64_t>(HoldKind::kResume) && kind != static_cast<uint64_t>(HoldKind::kOutput)) {
    return absl::DataLossError(absl::StrCat("catalog has a hold of an unknown kind: ", kind));
  }
  return HoldKey{StepKeyOf(bytes), {static_cast<HoldKind>(kind), ReadBigEndian(bytes.substr(kStepKeyBytes + 1))}};
}

std::string StepFolder(std::string_view root, std::string_view job_id, std::string_view stage, const StepKey& key) {
  return absl::StrCat(std::string(root), "/jobs/", std::string(job_id), "/", std::string(stage), "/",
                      absl::StrFormat("step-%08d-f%08d", key.step, key.fence));
}

}  // namespace vlm::checkpoint
