// The report of an evaluation: one HTML page that stands alone, and the same facts as JSON. Pure.
#ifndef VLM_TRAINER_STAGES_REPORT_H_
#define VLM_TRAINER_STAGES_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/stages/score.h"

namespace vlm::trainer {

struct CurvePoint {
  uint64_t step = 0;
  double loss = 0, learning_rate = 0, gradient_norm = 0;
};
struct StageCurve {
  std::string stage, kind;
  std::vector<CurvePoint> points;
};

struct ReportPicture {
  std::string file;  // name beside the report
  std::string png;   // encoded, as the model's input came
  Answered answer;
};

struct Report {
  std::string job_id, stage, model_digest;
  std::vector<StageCurve> curves;
  std::vector<TaskScore> scores;
  std::vector<ReportPicture> pictures;
  bool passed() const;
};

// curves.jsonl as training stages write it; empty for a line that does not parse.
std::vector<CurvePoint> ParseCurve(const std::string& jsonl);

std::string ReportJson(const Report& report);
std::string ReportHtml(const Report& report);
// The accuracy table for a terminal or log.
std::string ReportText(const Report& report);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_REPORT_H_
