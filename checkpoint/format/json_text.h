// JSON as files of others must be read: no duplicate keys, bounded depth, valid UTF-8.
#ifndef VLM_CHECKPOINT_FORMAT_JSON_TEXT_H_
#define VLM_CHECKPOINT_FORMAT_JSON_TEXT_H_

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/status.h"

namespace vlm::checkpoint {

// INVALID_ARGUMENT names the byte for bad syntax or UTF-8, the key for a duplicate, the limit for depth.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text, int depth_max);

// Whether `text` is valid UTF-8, so that it can be written as JSON.
bool IsUtf8(std::string_view text);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_JSON_TEXT_H_
