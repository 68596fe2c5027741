// The canonical form of one resolved stage: what the trainer receives and what identifies a stage's settings.
#ifndef VLM_SPEC_CANONICAL_H_
#define VLM_SPEC_CANONICAL_H_

#include <string>
#include <string_view>

#include "base/digest.h"
#include "base/status.h"
#include "spec/stage.h"

namespace vlm::spec {

// JSON with the keys and nesting of the job file, defaults filled in, keys sorted, no white space. Equal stages
// give equal bytes, whatever the order of keys in the file.
std::string StageToJson(const Stage& stage);

// The inverse. INVALID_ARGUMENT, naming the field, for anything StageToJson cannot have written: unknown or
// missing keys, wrong types, values out of range.
absl::StatusOr<Stage> StageFromJson(std::string_view json);

// SHA-256 over the version of what the stage's kind computes and the canonical JSON of the fields that change results.
// Name, needs, ranks, shards of a pool, overlap, zero, recompute, save interval and limits on failures are left out:
// they do not. The digests of a stage's inputs are not part of it; a stage key joins both.
Digest SemanticDigest(const Stage& stage);

// Both at the cost of one.
struct CanonicalStage {
  std::string json;
  Digest semantic_digest;
};
CanonicalStage MakeCanonical(const Stage& stage);

}  // namespace vlm::spec

#endif  // VLM_SPEC_CANONICAL_H_
