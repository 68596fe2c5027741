// Families and keys of the coordinator's rows. Integers are big-endian, so scans follow their order.
#ifndef VLM_COORDINATOR_CORE_ROW_KEYS_H_
#define VLM_COORDINATOR_CORE_ROW_KEYS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vlm::coordinator {

// Families that Coordinator::AddRow wants, all of them, before Start.
inline constexpr std::string_view kMetaFamily = "meta";             // "meta" -> MetaRecord
inline constexpr std::string_view kJobFamily = "job";               // job_id -> JobRecord
inline constexpr std::string_view kStageFamily = "stage";           // stage_uid -> StageRecord
inline constexpr std::string_view kStageSpecFamily = "stage_spec";  // stage_uid -> canonical JSON of the stage
inline constexpr std::string_view kAttemptFamily = "attempt";       // stage_uid -> AttemptRecord (the newest)
inline constexpr std::string_view kShardFamily = "shard";           // stage_uid, number u32 -> ShardRecord
inline constexpr std::string_view kNodeFamily = "node";             // node_id -> NodeRecord
inline constexpr std::string_view kRequestFamily = "request";       // request_id -> RequestRecord
inline constexpr std::string_view kOutputFamily = "output";         // stage_key -> OutputRecord
// Families the core writes and never reads back; the shell serves them.
inline constexpr std::string_view kJobYamlFamily = "job_yaml";    // job_id -> the submitted text
inline constexpr std::string_view kEventFamily = "event";         // sequence u64 -> v1::Event
inline constexpr std::string_view kJobEventFamily = "job_event";  // job_id, 0, sequence u64 -> empty

std::vector<std::string> RestoredFamilies();  // of AddRow; attempts before stages
std::vector<std::string> AllFamilies();       // to open the store with

std::string EncodeU32(uint32_t value);
std::string EncodeU64(uint64_t value);
std::string ShardKey(std::string_view stage_uid, uint32_t shard);
std::string EventKey(uint64_t sequence);
std::string JobEventPrefix(std::string_view job_id);  // a scan from here meets one job's events in order
std::string JobEventKey(std::string_view job_id, uint64_t sequence);
uint64_t DecodeU64(std::string_view bytes);  // of the last 8 bytes; requires that many

// "<stage_uid in hex>/<fence>".
std::string AttemptId(std::string_view stage_uid, uint64_t fence);
// The stage_uid of an attempt id; empty for other text.
std::string StageUidOf(std::string_view attempt_id);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_ROW_KEYS_H_
