#include "cli/exit_code.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vlm::cli {
namespace {

constexpr ExitCodeRow kTable[] = {
    {ExitCode::kOk, "done; with `wait` and `submit --follow`: the job succeeded"},
    {ExitCode::kJobFailed, "the job failed"},
    {ExitCode::kUsage, "wrong use: an unknown command or option, a bad value, a name that several jobs have"},
    {ExitCode::kNotFound, "no such job, stage, checkpoint or field"},
    {ExitCode::kInvalidJobFile, "the job file is invalid; nothing was stored"},
    {ExitCode::kUnreachable, "the coordinator cannot be reached, or is too busy"},
    {ExitCode::kJobCancelled, "the job was cancelled"},
    {ExitCode::kDamaged, "a checkpoint is damaged"},
    {ExitCode::kRefused, "access refused: a token or a file's permissions"},
    {ExitCode::kWrongState, "not possible in the present state, or the target exists already"},
    {ExitCode::kTimeout, "`wait --timeout` is over; the job goes on"},
    {ExitCode::kFailed, "any other failure: a file, a program, an answer that makes no sense"},
    {ExitCode::kInterrupted, "interrupted by Ctrl-C; the job goes on"},
};

}  // namespace

std::span<const ExitCodeRow> ExitCodeTable() { return kTable; }

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kInvalidArgument:
      return ExitCode::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
      return ExitCode::kUnreachable;
    case absl::StatusCode::kDataLoss:
      return ExitCode::kDamaged;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return ExitCode::kRefused;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
      return ExitCode::kWrongState;
    case absl::StatusCode::kCancelled:
      return ExitCode::kInterrupted;
    default:
      return ExitCode::kFailed;
  }
}

std::string ExitCodesHelp() {
  std::string text = "Exit codes:\n";
  for (const ExitCodeRow& row : ExitCodeTable()) {
    absl::StrAppendFormat(&text, "  %3d  %s\n", static_cast<int>(row.code),
                          absl::string_view(row.meaning.data(), row.meaning.size()));
  }
  return text;
}

std::string ExitCodesMarkdown() {
  std::string text = "| code | meaning |\n|---|---|\n";
  for (const ExitCodeRow& row : ExitCodeTable()) {
    absl::StrAppend(&text, "| ", static_cast<int>(row.code), " | ", std::string(row.meaning), " |\n");
  }
  return text;
}

}  // namespace vlm::cli
