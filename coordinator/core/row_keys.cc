#include "coordinator/core/row_keys.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::coordinator {

std::vector<std::string> RestoredFamilies() {
  return {std::string(kMetaFamily),  std::string(kJobFamily),       std::string(kAttemptFamily),
          std::string(kStageFamily), std::string(kStageSpecFamily), std::string(kShardFamily),
          std::string(kNodeFamily),  std::string(kRequestFamily),   std::string(kOutputFamily)};
}

std::vector<std::string> AllFamilies() {
  std::vector<std::string> families = RestoredFamilies();
  families.insert(families.end(),
                  {std::string(kJobYamlFamily), std::string(kEventFamily), std::string(kJobEventFamily)});
  return families;
}

std::string EncodeU32(uint32_t value) {
  std::string bytes(4, '\0');
  for (int i = 3; i >= 0; --i, value >>= 8) bytes[i] = static_cast<char>(value & 0xff);
  return bytes;
}

std::string EncodeU64(uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 7; i >= 0; --i, value >>= 8) bytes[i] = static_cast<char>(value & 0xff);
  return bytes;
}

uint64_t DecodeU64(std::string_view bytes) {
  VLM_CHECK(bytes.size() >= 8, "a sequence has 8 bytes");
  uint64_t value = 0;
  for (const char c : bytes.substr(bytes.size() - 8)) value = value << 8 | static_cast<uint8_t>(c);
  return value;
}

std::string ShardKey(std::string_view stage_uid, uint32_t shard) { return std::string(stage_uid) + EncodeU32(shard); }
std::string EventKey(uint64_t sequence) { return EncodeU64(sequence); }
std::string JobEventPrefix(std::string_view job_id) { return std::string(job_id) + '\0'; }
std::string JobEventKey(std::string_view job_id, uint64_t sequence) {
  return JobEventPrefix(job_id) + EncodeU64(sequence);
}

std::string AttemptId(std::string_view stage_uid, uint64_t fence) {
  return absl::StrCat(absl::BytesToHexString(absl::string_view(stage_uid.data(), stage_uid.size())), "/", fence);
}

std::string StageUidOf(std::string_view attempt_id) {
  const size_t slash = attempt_id.find('/');
  if (slash != 32 || attempt_id.find_first_not_of("0123456789abcdef") != slash) return "";
  return absl::HexStringToBytes(absl::string_view(attempt_id.data(), slash));
}

}  // namespace vlm::coordinator
