#include "absl/strings/str_cat.h"
#include "data/shapes/shapes_generator.h"
#include "data/tar/tar_writer.h"

namespace vlm::data {

absl::Status WriteShapesShard(const ShapesGenerator& generator, ShapesSplit split, uint64_t first, uint64_t count,
                              WritableFile* file) {
  TarWriter tar(file);
  for (uint64_t index = first; index < first + count; ++index) {
    VLM_ASSIGN_OR_RETURN(const ShapesSample sample, generator.Generate(split, index));
    if (sample.picture.has_value()) {
      VLM_RETURN_IF_ERROR(tar.Append(absl::StrCat(sample.key, ".", sample.extension), *sample.picture));
    }
    VLM_RETURN_IF_ERROR(tar.Append(absl::StrCat(sample.key, ".json"), sample.json));
  }
  return tar.Finish();
}

}  // namespace vlm::data
