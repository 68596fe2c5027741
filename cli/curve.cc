#include "cli/curve.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/stage_choice.h"
#include "cli/table.h"

namespace vlm::cli {

VerbResult Curve(const Context& context, const CurveArguments& arguments) {
  VLM_ASSIGN_OR_RETURN(const v1::Job job, context.service->FindJob(arguments.job));
  VLM_ASSIGN_OR_RETURN(const v1::Stage* const stage,
                       arguments.stage.empty() ? StageOfInterest(job) : FindStage(job, arguments.stage));
  v1::QueryMetricsRequest request;
  request.set_job_id(job.job_id());
  request.set_stage(stage->name());
  request.set_series(arguments.series);
  request.set_max_points(arguments.points);
  VLM_ASSIGN_OR_RETURN(const v1::QueryMetricsResponse curve,
                       context.service->Call<v1::QueryMetricsResponse>("/vlm.v1.JobService/QueryMetrics", request));
  if (curve.points().empty()) {
    return absl::NotFoundError(absl::StrCat("the stage ", stage->name(),
                                            " has no points of this series (a training stage has loss, learning_rate, "
                                            "gradient_norm and others): ",
                                            arguments.series));
  }
  if (context.format != OutputFormat::kTable) return PrintMessage(context, curve);
  Table table({"STEP", absl::AsciiStrToUpper(arguments.series)});
  for (const auto& point : curve.points()) {
    table.Add({absl::StrCat(point.step()), absl::StrFormat("%.6g", point.value())});
  }
  context.terminal->Write(table.ToString(context.terminal->columns()));
  return ExitCode::kOk;
}

}  // namespace vlm::cli
