// vlm-trainer: one rank of one attempt. Started by vlm-worker, which passes its socket, the attempt and a token in
// the environment; everything else arrives over the socket. By hand: `vlm-trainer chat` answers one question,
// `vlm-trainer model` shows what a stage will train.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/version.h"
#include "spec/canonical.h"
#include "train/process_memory.h"
#include "trainer/chat.h"
#include "trainer/exit_code.h"
#include "trainer/model_show.h"
#include "trainer/stages/run_stage.h"
#include "trainer/worker_link.h"
#include "trainer/worker_ties.h"

namespace vlm::trainer {
namespace {

absl::Status RunAttempt(WorkerLink* link) {
  VLM_ASSIGN_OR_RETURN(const spec::Stage stage, spec::StageFromJson(link->assignment().stage_json));
  const checkpoint::CheckpointClient checkpoints(link->channel(), link->call_options());
  const StageContext context = {&link->assignment(), &stage, link, &checkpoints, PosixFileSystem(), RealClock()};
  return RunStage(context);
}

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// No clean-up: with the worker the run is over, and the coordinator starts the next attempt elsewhere.
void EndWithWorker() {
  std::fprintf(stderr, "vlm-trainer: the worker is gone, ending\n");
  _exit(static_cast<int>(ExitCode::kCrash));
}

// Every rank's log has a first line, also that of a pool's rank for which no shard is left.
void LogStart(const Assignment& assignment) {
  std::fprintf(stderr, "vlm-trainer %s: %s of %s, attempt %llu, rank %d of %d, %s\n", kVersion,
               assignment.stage.c_str(), assignment.job_id.c_str(), static_cast<unsigned long long>(assignment.fence),
               assignment.rank, assignment.world,
               assignment.cuda ? "on a GPU" : absl::StrCat("on ", assignment.threads, " CPU threads").c_str());
}

int RunRank() {
  LinkOptions options;
  options.socket = Environment("VLM_WORKER_SOCKET");
  options.attempt_id = Environment("VLM_ATTEMPT_ID");
  options.token = Environment("VLM_ATTEMPT_TOKEN");
  if (options.socket.empty() || options.attempt_id.empty() || options.token.empty()) {
    std::fprintf(stderr,
                 "vlm-trainer: started without VLM_WORKER_SOCKET, VLM_ATTEMPT_ID and VLM_ATTEMPT_TOKEN; it is "
                 "vlm-worker that starts ranks (see --help for what a person can run)\n");
    return static_cast<int>(ExitCode::kUserError);
  }
  const std::string guard = Environment("VLM_WORKER_GUARD_FD");
  options.rank = std::atoi(Environment("VLM_RANK").c_str());
  const WorkerTies ties = {std::atoi(Environment("VLM_WORKER_PID").c_str()),
                           guard.empty() ? -1 : std::atoi(guard.c_str())};
  absl::Status status = TieToWorker(ties, EndWithWorker);
  absl::StatusOr<std::unique_ptr<WorkerLink>> link = absl::UnavailableError("not attached");
  if (status.ok()) {
    link = WorkerLink::Connect(options, RealClock());
    status = link.status();
  }
  if (status.ok()) {
    LogStart((*link)->assignment());
    status = RunAttempt(link->get());
    if (status.ok()) CrashPoint("rank.done");
  }
  const int code = static_cast<int>(ExitCodeOf(status));
  if (!status.ok()) std::fprintf(stderr, "vlm-trainer: %s\n", std::string(status.message()).c_str());
  if (link.ok()) {
    if (status.ok())
      (*link)->Flush();
    else
      (*link)->ReportFailure(code, std::string(status.message()));
  }
  return code;
}

// Of a command: its text and a line end, or why not.
int PrintOrExplain(const char* command, const absl::StatusOr<std::string>& text) {
  if (!text.ok()) {
    std::fprintf(stderr, "vlm-trainer %s: %s\n", command, std::string(text.status().message()).c_str());
    return static_cast<int>(ExitCodeOf(text.status()));
  }
  std::printf("%s%s", text->c_str(), text->ends_with('\n') ? "" : "\n");
  return 0;
}

}  // namespace
}  // namespace vlm::trainer

int main(int argc, char** argv) {
  CLI::App app("One rank of a training attempt. Without a command: run by vlm-worker.");
  CLI::App* const version = app.add_subcommand("version", "Print the version.");
  CLI::App* const chat = app.add_subcommand("chat", "Answer one question about a picture.");
  vlm::trainer::ChatOptions chat_options;
  chat->add_option("--model", chat_options.model_folder, "Model folder: a checkpoint step or an export")->required();
  chat->add_option("--image", chat_options.image, "JPEG or PNG file");
  chat->add_option("--prompt", chat_options.prompt, "The question")->required();
  chat->add_option("--max-tokens", chat_options.max_tokens, "Longest answer, in tokens")->check(CLI::Range(1, 4096));
  chat->add_option("--threads", chat_options.threads, "Compute threads")->check(CLI::Range(1, 256));
  CLI::App* const model = app.add_subcommand("model", "Show what a stage of a job file trains and needs.");
  vlm::trainer::ModelShowOptions show;
  model->add_option("FILE", show.job_file, "Job file")->required();
  model->add_option("--stage", show.stage, "Stage; else the last that trains");
  model->add_option("--ranks", show.ranks, "Ranks; else the most that the stage may have")->check(CLI::Range(1, 1024));
  model->add_option("--set", show.overrides, "PATH=VALUE over what the file says")->take_all()->allow_extra_args(false);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(vlm::trainer::ExitCode::kUserError);
  }
  if (version->parsed()) {
    std::printf("vlm-trainer %s\n", vlm::kVersion);
    return 0;
  }
  vlm::train::ReuseTensorMemory();
  if (chat->parsed()) return vlm::trainer::PrintOrExplain("chat", vlm::trainer::Chat(chat_options));
  if (model->parsed()) return vlm::trainer::PrintOrExplain("model", vlm::trainer::ModelShow(show));
  vlm::ArmCrashPoints(std::getenv(vlm::kCrashPointsVariable));
  return vlm::trainer::RunRank();
}
