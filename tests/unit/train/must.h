// The value of what cannot fail in a test's own set-up.
#ifndef VLM_TESTS_UNIT_TRAIN_MUST_H_
#define VLM_TESTS_UNIT_TRAIN_MUST_H_

#include <string>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace vlm::train {

template <typename T>
T Must(absl::StatusOr<T> value) {
  VLM_CHECK(value.ok(), std::string(value.status().message()));
  return *std::move(value);
}
inline void Must(const absl::Status& status) { VLM_CHECK(status.ok(), std::string(status.message())); }

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_TRAIN_MUST_H_
