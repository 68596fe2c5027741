#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/version.h"
#include "cli/chat.h"
#include "cli/checkpoint_verbs.h"
#include "cli/curve.h"
#include "cli/job_verbs.h"
#include "cli/logs.h"
#include "cli/model_show.h"
#include "cli/spec_verbs.h"
#include "spec/schema.h"

namespace vlm::cli {
namespace {

constexpr char kJobHelp[] = "A job's id, or its name when only one job has it";
constexpr char kVerbFooter[] =
    "Every command also takes --state-dir, --coordinator, --token-file and -o;\n"
    "`vlmctl --help` explains them and lists the exit codes.\n";
constexpr char kStepHelp[] = "STAGE for its newest complete checkpoint, or STAGE@STEP";

// What is wrong with it; empty: nothing. An unset variable of a script must not become a new job each time.
std::string CheckRequestId(const std::string& id) {
  constexpr size_t kBytesMax = 128;  // what the coordinator takes
  if (!id.empty() && id.size() <= kBytesMax) return "";
  return absl::StrCat("expected 1 to ", kBytesMax, " bytes, got ", id.size());
}

VerbResult Version(const Context& context) {
  if (context.format == OutputFormat::kTable) {
    context.terminal->Line(absl::StrCat("vlmctl ", kVersion));
  } else {
    context.terminal->Write(JsonToText(absl::StrCat("{\n \"version\": \"", kVersion, "\"\n}\n"), context.format));
  }
  return ExitCode::kOk;
}

// The commands and what the command line says about them. Parsing fills the members in.
class Commands {
 public:
  struct Verb {
    CLI::App* app;
    bool formats;  // honours -o json and -o yaml
    std::function<absl::StatusOr<int>(const Context&)> run;
  };

  Commands() : app_("Submits training jobs and looks after them.", "vlmctl") {
    app_.require_subcommand(1);
    app_.fallthrough();
    app_.footer(ExitCodesHelp());
    app_.add_option("--state-dir", endpoint_.state_dir, "The coordinator's state folder: says its address and token")
        ->type_name("FOLDER");
    app_.add_option("--coordinator", endpoint_.coordinator, "The coordinator's address (else VLM_COORDINATOR)")
        ->type_name("ADDRESS");
    app_.add_option("--token-file", endpoint_.token_file, "The user's token (else VLM_TOKEN_FILE)")->type_name("FILE");
    app_.add_option("-o,--output", format_, "How to print: table, json or yaml")
        ->transform(CLI::CheckedTransformer(std::map<std::string, OutputFormat>{{"table", OutputFormat::kTable},
                                                                                {"json", OutputFormat::kJson},
                                                                                {"yaml", OutputFormat::kYaml}})
                        .description(""))
        ->type_name("FORMAT");
    AddJobVerbs();
    AddWatchingVerbs();
    AddCheckpointVerbs();
    AddOtherVerbs();
  }

  CLI::App& app() { return app_; }
  const std::vector<Verb>& verbs() const { return verbs_; }
  OutputFormat format() const { return format_; }
  const EndpointOptions& endpoint() const { return endpoint_; }
  const SubmitArguments& submit() const { return submit_; }

  const Verb* Parsed() const {
    for (const Verb& verb : verbs_) {
      if (verb.app->parsed()) return &verb;
    }
    return nullptr;
  }

 private:
  CLI::App* Add(CLI::App* parent, const std::string& name, const std::string& help, bool formats,
                std::function<VerbResult(const Context&)> run) {
    CLI::App* const verb = parent->add_subcommand(name, help);
    verb->fallthrough();
    verb->footer(kVerbFooter);
    verbs_.push_back({verb, formats, [run = std::move(run)](const Context& context) -> absl::StatusOr<int> {
                        VLM_ASSIGN_OR_RETURN(const ExitCode code, run(context));
                        return static_cast<int>(code);
                      }});
    return verb;
  }

  CLI::App* AddOfJob(CLI::App* parent, const std::string& name, const std::string& help, bool formats,
                     std::function<VerbResult(const Context&)> run) {
    CLI::App* const verb = Add(parent, name, help, formats, std::move(run));
    verb->add_option("JOB", job_, kJobHelp)->required();
    return verb;
  }

  void AddJobVerbs() {
    CLI::App* const submit = Add(&app_, "submit", "Checks a job file and starts the job", true,
                                 [this](const Context& context) { return Submit(context, submit_); });
    submit->add_option("FILE", submit_.file, "Job file")->required();
    AddSet(submit, &submit_.overrides);
    CLI::Option* const follow = submit->add_flag("--follow", submit_.follow, "Stay and show progress until it ends");
    CLI::Option* const quiet = submit->add_flag("-q,--quiet", submit_.quiet, "Print the job's id alone");
    CLI::Option* const id_file = submit->add_option("--id-file", submit_.id_file, "File that gets the job's id");
    id_file->type_name("FILE");
    CLI::Option* const request_id =
        submit->add_option("--request-id", submit_.request_id, "A name for this submit: a second one is no second job");
    request_id->check(CheckRequestId)->type_name("ID");
    submit->add_flag("--validate-only", submit_.validate_only, "Check only, here and at the coordinator; store nothing")
        ->excludes(follow)
        ->excludes(id_file)
        ->excludes(request_id);
    follow->excludes(quiet);
    Add(&app_, "list", "All jobs, newest first", true, [](const Context& context) { return ListJobs(context); });
    AddOfJob(&app_, "get", "A job and its stages", true,
             [this](const Context& context) { return GetJob(context, job_); });
    AddOfJob(&app_, "describe", "A job with attempts, placements and timeline", true,
             [this](const Context& context) { return DescribeJob(context, job_); });
    CLI::App* const cancel = AddOfJob(&app_, "cancel", "Stops a job for good", true,
                                      [this](const Context& context) { return CancelJob(context, job_, note_); });
    CLI::App* const retry = AddOfJob(&app_, "retry", "Runs the failed stages of a job again", true,
                                     [this](const Context& context) { return RetryJob(context, job_, note_); });
    for (CLI::App* const verb : {cancel, retry})
      verb->add_option("--note", note_, "Why; kept with the event")->type_name("TEXT");
  }

  void AddWatchingVerbs() {
    CLI::App* const logs = Add(&app_, "logs", "What a rank of a stage wrote", false,
                               [this](const Context& context) { return Logs(context, logs_); });
    logs->add_option("JOB", logs_.job, kJobHelp)->required();
    logs->add_option("--stage", logs_.stage, "Stage (else the one that runs, failed, or ran last)")->type_name("STAGE");
    logs->add_option("--rank", logs_.rank, "Rank (else 0)")
        ->check(CLI::Range(0, 1 << 20).description(""))
        ->type_name("RANK");
    logs->add_flag("-f,--follow", logs_.follow, "Stay until the stage has ended");
    CLI::App* const curve = Add(&app_, "curve", "What a stage measured, step by step", true,
                                [this](const Context& context) { return Curve(context, curve_); });
    curve->add_option("JOB", curve_.job, kJobHelp)->required();
    curve->add_option("SERIES", curve_.series, "loss, learning_rate, gradient_norm, ...")->required();
    curve->add_option("--stage", curve_.stage, "Stage (else the one that runs, failed, or ran last)")
        ->type_name("STAGE");
    curve->add_option("--points", curve_.points, "At most so many points, 1 to 10000 (else 1000)")
        ->check(CLI::Range(1, 10'000).description(""))
        ->type_name("POINTS");
    CLI::App* const wait = AddOfJob(&app_, "wait", "Waits until a job has ended", true,
                                    [this](const Context& context) { return WaitForJob(context, job_, timeout_); });
    wait->add_option_function<std::string>(
            "--timeout",
            [this](const std::string& text) {
              if (!absl::ParseDuration(text, &timeout_) || timeout_ < absl::ZeroDuration()) {
                throw CLI::ValidationError("--timeout", "expected a duration like 90s or 1h30m, got " + text);
              }
            },
            "Give up after so long: 90s, 1h30m")
        ->type_name("DURATION");
  }

  void AddCheckpointVerbs() {
    CLI::App* const group = app_.add_subcommand("checkpoint", "Checkpoints and artifacts of a job");
    group->require_subcommand(1);
    group->fallthrough();
    group->footer(kVerbFooter);
    AddOfJob(group, "list", "Every step that is kept", true,
             [this](const Context& context) { return ListCheckpoints(context, job_); });
    CLI::App* const show = AddOfJob(group, "show", "One step and its files", true,
                                    [this](const Context& context) { return ShowCheckpoint(context, job_, step_); });
    CLI::App* const verify =
        AddOfJob(group, "verify", "Reads a step's files again and compares them with what was committed", true,
                 [this](const Context& context) { return VerifyCheckpoint(context, job_, step_); });
    CLI::App* const copy =
        AddOfJob(group, "export", "Copies a model into a new folder as Hugging Face lays it out", false,
                 [this](const Context& context) { return ExportCheckpoint(context, job_, step_, to_); });
    for (CLI::App* const verb : {show, verify, copy}) verb->add_option("STAGE[@STEP]", step_, kStepHelp)->required();
    copy->add_option("--to", to_, "The new folder")->required()->type_name("FOLDER");
  }

  void AddOtherVerbs() {
    CLI::App* const node = app_.add_subcommand("node", "Workers");
    node->require_subcommand(1);
    node->fallthrough();
    node->footer(kVerbFooter);
    Add(node, "list", "Workers and their devices", true, [](const Context& context) { return ListNodes(context); });
    CLI::App* const chat = app_.add_subcommand("chat", "Asks a trained model about a picture");
    chat->fallthrough();
    chat->footer("Its exit code is that of vlm-trainer.\n" + std::string(kVerbFooter));
    verbs_.push_back({chat, false, [this](const Context& context) { return Chat(context, chat_); }});
    CLI::Option* const model = chat->add_option("--model", chat_.model, "Model folder; or give --job");
    model->type_name("FOLDER");
    CLI::Option* const job = chat->add_option("--job", chat_.job, "A job that trained a model");
    job->type_name("JOB");
    chat->add_option("--stage", chat_.stage, "The job's stage (else the last that trained)")
        ->needs(job)
        ->type_name("STAGE");
    model->excludes(job);
    chat->add_option("--image", chat_.image, "JPEG or PNG file")->required()->type_name("FILE");
    chat->add_option("--prompt", chat_.prompt, "The question")->required()->type_name("TEXT");
    chat->add_option("--max-tokens", chat_.max_tokens, "Longest answer, in tokens: 1 to 4096")
        ->check(CLI::Range(1, 4096).description(""))
        ->type_name("TOKENS");
    AddModelVerbs();
    CLI::App* const render =
        Add(&app_, "render", "Prints a job file after composition, with the origin of each value", false,
            [this](const Context& context) { return Render(context, submit_.file, submit_.overrides); });
    render->add_option("FILE", submit_.file, "Job file")->required();
    AddSet(render, &submit_.overrides);
    CLI::App* const explain = Add(&app_, "explain", "What a field of the job file means", false,
                                  [this](const Context& context) { return Explain(context, path_); });
    explain->add_option("PATH", path_, "For example spec.stages.train.lr")->required();
    Add(&app_, "version", "Prints the version", true, Version);
  }

  void AddModelVerbs() {
    CLI::App* const model = app_.add_subcommand("model", "Models of a job file");
    model->require_subcommand(1);
    model->fallthrough();
    model->footer(kVerbFooter);
    CLI::App* const show =
        model->add_subcommand("show", "Parameters, parameter groups and memory of a training stage, before it runs");
    show->fallthrough();
    show->footer("Its exit code is that of vlm-trainer.\n" + std::string(kVerbFooter));
    verbs_.push_back({show, false, [this](const Context& context) { return ModelShow(context, model_show_); }});
    show->add_option("FILE", model_show_.file, "Job file")->required();
    show->add_option("--stage", model_show_.stage, "Stage (else the last that trains)")->type_name("STAGE");
    show->add_option("--ranks", model_show_.ranks, "Ranks, 1 to 1024 (else the most that the stage may have)")
        ->check(CLI::Range(1, 1024).description(""))
        ->type_name("RANKS");
    AddSet(show, &model_show_.overrides);
  }

  static void AddSet(CLI::App* verb, std::vector<std::string>* overrides) {
    verb->add_option("--set", *overrides, "Over what the file says; may be repeated")
        ->take_all()
        ->allow_extra_args(false)
        ->type_name("PATH=VALUE");
  }

  CLI::App app_;
  std::vector<Verb> verbs_;
  EndpointOptions endpoint_;
  OutputFormat format_ = OutputFormat::kTable;
  SubmitArguments submit_;
  LogsArguments logs_;
  CurveArguments curve_;
  ChatArguments chat_;
  ModelShowArguments model_show_;
  std::string job_, step_, to_, note_, path_;
  absl::Duration timeout_ = absl::InfiniteDuration();
};

// How far the words are commands.
struct Reached {
  std::string path = "vlmctl";
  std::vector<std::string> next;  // the commands that may follow
  std::string unknown;            // stands where one of them must
};
Reached FollowCommands(CLI::App* app, const std::vector<std::string>& arguments) {
  const std::vector<std::string> with_value = {"--state-dir", "--coordinator", "--token-file", "-o", "--output"};
  Reached reached;
  for (size_t i = 0;; ++i) {
    reached.next.clear();
    for (const CLI::App* const verb : app->get_subcommands([](CLI::App*) { return true; })) {
      reached.next.push_back(verb->get_name());
    }
    while (i < arguments.size() && arguments[i].starts_with("-")) {
      i += std::find(with_value.begin(), with_value.end(), arguments[i]) != with_value.end() ? 2 : 1;
    }
    if (i >= arguments.size() || reached.next.empty()) return reached;
    if (std::find(reached.next.begin(), reached.next.end(), arguments[i]) == reached.next.end()) {
      reached.unknown = arguments[i];
      return reached;
    }
    reached.path += " " + arguments[i];
    app = app->get_subcommand(arguments[i]);
  }
}

int ReportParseError(const World& world, Commands* commands, const std::vector<std::string>& arguments,
                     const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) {  // --help
    std::ostringstream out, err;
    commands->app().exit(error, out, err);
    world.terminal->Write(out.str());
    return static_cast<int>(ExitCode::kOk);
  }
  const Reached reached = FollowCommands(&commands->app(), arguments);
  const std::string nearest = reached.unknown.empty() ? "" : spec::Nearest(reached.unknown, reached.next);
  world.terminal->Error(
      absl::StrCat("vlmctl: ", reached.unknown.empty() ? error.what() : "no such command: " + reached.unknown));
  world.terminal->Error(nearest.empty() ? absl::StrCat("`", reached.path, " --help` lists commands and options")
                                        : absl::StrCat("did you mean `", reached.path, " ", nearest, "`?"));
  return static_cast<int>(ExitCode::kUsage);
}

absl::Status CheckFormat(const Commands& commands, const Commands::Verb& verb) {
  if (commands.format() == OutputFormat::kTable) return absl::OkStatus();
  if (!verb.formats) return absl::InvalidArgumentError("-o json and -o yaml do not apply to " + verb.app->get_name());
  if (verb.app->get_name() != "submit") return absl::OkStatus();
  if (commands.submit().follow)
    return absl::InvalidArgumentError("--follow is for people: leave out -o, or use `wait -o`");
  if (commands.submit().quiet) return absl::InvalidArgumentError("-q and -o exclude each other");
  return absl::OkStatus();
}

absl::StatusOr<int> RunVerb(const World& world, const Commands& commands, const Commands::Verb& verb) {
  VLM_RETURN_IF_ERROR(CheckFormat(commands, verb));
  EndpointOptions endpoint = commands.endpoint();
  endpoint.environment_coordinator = world.environment_coordinator;
  endpoint.environment_token_file = world.environment_token_file;
  Service service([&world, endpoint] { return ResolveEndpoint(world.files, endpoint); }, world.connect, world.clock,
                  world.interrupt,
                  [&world](const absl::Status& status) {
                    world.terminal->Error(absl::StrCat("vlmctl: ", std::string(status.message()), "; trying again"));
                  });
  Context context;
  context.files = world.files;
  context.clock = world.clock;
  context.interrupt = world.interrupt;
  context.terminal = world.terminal;
  context.service = &service;
  context.format = commands.format();
  context.time_zone = world.time_zone;
  context.program_folder = world.program_folder;
  context.run_program = world.run_program;
  context.new_request_id = world.new_request_id;
  return verb.run(context);
}

}  // namespace

int Run(const World& world, const std::vector<std::string>& arguments) {
  Commands commands;
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
  try {
    commands.app().parse(reversed);
  } catch (const CLI::ParseError& error) {
    return ReportParseError(world, &commands, arguments, error);
  }
  const Commands::Verb* const verb = commands.Parsed();
  VLM_CHECK(verb != nullptr, "a command without a verb");
  const absl::StatusOr<int> code = RunVerb(world, commands, *verb);
  if (code.ok()) return *code;
  world.terminal->Error(absl::StrCat("vlmctl: ", std::string(code.status().message())));
  return static_cast<int>(ExitCodeOf(code.status()));
}

std::string VerbsMarkdown() {
  Commands commands;
  std::string text = "| command | what |\n|---|---|\n";
  for (const Commands::Verb& verb : commands.verbs()) {
    const CLI::App* const parent = verb.app->get_parent();
    std::string line = parent->get_parent() == nullptr ? "" : parent->get_name() + " ";
    line += verb.app->get_name();
    for (const CLI::Option* const option : verb.app->get_options({})) {
      if (option->get_name() == "--help") continue;
      const bool positional = option->get_positional();
      const std::string value = option->get_items_expected_max() > 0 && !positional ? " VALUE" : "";
      const std::string shown = absl::StrCat(option->get_name(positional), value);
      absl::StrAppend(&line, " ", option->get_required() ? shown : absl::StrCat("[", shown, "]"));
    }
    absl::StrAppend(&text, "| `", line, "` | ", verb.app->get_description(), " |\n");
  }
  return text;
}

}  // namespace vlm::cli
