// A typed sample: text runs with target flags, and image spans that are atoms.
//
// Illegal states cannot be built: a span is never cut, a target never stands in a user turn, and there is one
// picture per mark.
#ifndef VLM_DATA_SAMPLE_H_
#define VLM_DATA_SAMPLE_H_

#include <cstdint>
#include <variant>
#include <vector>

#include "base/status.h"

namespace vlm::data {

struct TextRun {
  std::vector<int32_t> ids;
  bool target = false;  // these ids are to be predicted
};

struct ImageSpan {
  int32_t image = 0;   // which of the sample's pictures
  int32_t tokens = 0;  // positions it takes
  int32_t id = 0;      // the id that stands at each of them
};

struct Sample {
  std::vector<std::variant<TextRun, ImageSpan>> parts;

  int64_t tokens() const;
  // Ids that are predicted by a position before them; the first position of a sample predicts but is not
  // predicted.
  int64_t targets() const;
  int32_t images() const;
};

// Drops parts from the end until the sample has at most `tokens_max` positions: text is cut, an image span that
// does not fit whole is dropped with everything after it. Returns how many positions were dropped.
int64_t Truncate(Sample* sample, int64_t tokens_max);

}  // namespace vlm::data

#endif  // VLM_DATA_SAMPLE_H_
