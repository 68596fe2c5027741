#include "trainer/stages/run_stage.h"

#include "train/torch_edge.h"
#include "trainer/stages/evaluate_stage.h"
#include "trainer/stages/pool_stages.h"
#include "trainer/stages/training_stage.h"

namespace vlm::trainer {
namespace {

// The explicit list of stage kinds: a new kind enters here.
absl::Status RunStageOfKind(const StageContext& context) {
  switch (context.stage->kind) {
    case spec::StageKind::kGenerate:
      return RunGenerate(context);
    case spec::StageKind::kTokenizer:
      return RunTokenizer(context);
    case spec::StageKind::kIndex:
      return RunIndex(context);
    case spec::StageKind::kPretrain:
    case spec::StageKind::kAlign:
    case spec::StageKind::kSft:
      return RunTraining(context);
    case spec::StageKind::kEvaluate:
      return RunEvaluate(context);
  }
  return absl::UnimplementedError("this build of vlm-trainer does not know the stage's kind");
}

}  // namespace

absl::Status RunStage(const StageContext& context) {
  return train::CatchTorch("stage " + context.stage->name, [&] { return RunStageOfKind(context); });
}

}  // namespace vlm::trainer
