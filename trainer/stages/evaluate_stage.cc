#include "trainer/stages/evaluate_stage.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "data/image/image.h"
#include "trainer/answerer.h"
#include "trainer/exit_code.h"
#include "trainer/pool.h"
#include "trainer/stages/pool_stages.h"
#include "trainer/stages/report.h"
#include "trainer/stages/training_setup.h"
#include "trainer/stages/training_stage.h"

namespace vlm::trainer {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kAnswersBytesMax = uint64_t{1} << 30;

Json ToJson(const Answered& answer) {
  Json json = {{"task", answer.task},         {"kind", answer.kind},         {"sample", answer.sample},
               {"question", answer.question}, {"expected", answer.expected}, {"generated", answer.generated}};
  if (answer.blank.has_value()) json["blank"] = *answer.blank;
  if (answer.cut) json["cut"] = true;
  return json;
}

// Throws nlohmann's exceptions when a key is missing or of another type.
Answered FromJson(const Json& json) {
  Answered answer{json.at("task"),
                  json.at("kind"),
                  json.at("sample").get_ref<const Json::number_unsigned_t&>(),
                  json.at("question"),
                  json.at("expected"),
                  json.at("generated"),
                  {},
                  json.value("cut", false)};
  if (json.contains("blank")) answer.blank = json.at("blank");
  return answer;
}

absl::StatusOr<std::vector<Answered>> ParseAnswers(const std::string& lines) {
  std::vector<Answered> answers;
  try {
    for (const std::string& line : std::vector<std::string>(absl::StrSplit(lines, '\n', absl::SkipEmpty()))) {
      answers.push_back(FromJson(Json::parse(line)));
    }
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrCat("answer ", answers.size() + 1, " does not parse: ", error.what()));
  }
  return answers;
}

std::string TextOf(const data::Message& message) {
  std::string text;
  for (const data::ContentPart& part : message.content) text += part.text;
  return text;
}

class EvaluateStage final : public PoolStage {
 public:
  explicit EvaluateStage(const StageContext& context) : context_(context), settings_(context.stage->evaluate()) {}

  absl::Status Init() {
    at::set_num_threads(context_.assignment->threads);
    context_.link->SetPhase(Phase::kLoad);
    VLM_ASSIGN_OR_RETURN(data_, OpenIndexedData(context_, settings_.index_stage));
    VLM_ASSIGN_OR_RETURN(model_, context_.Input(settings_.model_stage));
    for (size_t task = 0; task < settings_.tasks.size(); ++task) {
      const data::ManifestSource* const source = data_->manifest.FindSource(settings_.tasks[task].source);
      if (source == nullptr) {
        return absl::NotFoundError(
            absl::StrCat("task ", settings_.tasks[task].name,
                         " names a source the index does not have: ", settings_.tasks[task].source));
      }
      const uint64_t limit = static_cast<uint64_t>(settings_.tasks[task].limit);
      const uint64_t samples = limit == 0 ? source->samples : std::min(limit, source->samples);
      for (uint64_t i = 0; i < samples; ++i) items_.push_back({task, source->first + i});
    }
    return absl::OkStatus();
  }

  std::string extension() const override { return ".jsonl"; }

  absl::StatusOr<uint64_t> WriteShard(uint32_t shard, const std::string& path, const Advance& advance) override {
    VLM_RETURN_IF_ERROR(LoadModel());
    const size_t shards = context_.assignment->shards;
    const size_t begin = items_.size() * shard / shards, end = items_.size() * (shard + 1) / shards;
    std::vector<Answered> answers;
    std::vector<Question> questions, blanks;
    std::vector<size_t> asked_blank;
    for (size_t i = begin; i < end; ++i) {
      VLM_ASSIGN_OR_RETURN(Question question, Ask(items_[i], &answers.emplace_back()));
      if (settings_.tasks[items_[i].task].control == spec::Control::kBlank) {
        asked_blank.push_back(answers.size() - 1);
        blanks.push_back(Blanked(question));
      }
      questions.push_back(std::move(question));
      advance();
    }
    VLM_ASSIGN_OR_RETURN(const std::vector<Reply> real, answerer_->Answer(questions, settings_.max_tokens, advance));
    VLM_ASSIGN_OR_RETURN(const std::vector<Reply> blank, answerer_->Answer(blanks, settings_.max_tokens, advance));
    for (size_t i = 0; i < real.size(); ++i) {
      answers[i].generated = real[i].text;
      answers[i].cut = real[i].cut;
    }
    for (size_t i = 0; i < blank.size(); ++i) answers[asked_blank[i]].blank = blank[i].text;
    std::string lines;
    for (const Answered& answer : answers) {
      lines += ToJson(answer).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    VLM_RETURN_IF_ERROR(WriteSynced(context_.files, path, lines));
    return answers.size();
  }

  absl::StatusOr<std::vector<ArtifactFile>> Finish(const std::vector<ShardOutput>& winners,
                                                   const Advance& advance) override {
    std::vector<Answered> answers;
    std::string all;
    for (const ShardOutput& winner : winners) {
      VLM_ASSIGN_OR_RETURN(const std::string lines, ReadFile(context_.files, winner.file, kAnswersBytesMax));
      all += lines;
      absl::StatusOr<std::vector<Answered>> parsed = ParseAnswers(lines);
      if (!parsed.ok()) return Annotate(parsed.status(), winner.file);
      std::move(parsed->begin(), parsed->end(), std::back_inserter(answers));
      advance();
    }
    VLM_ASSIGN_OR_RETURN(const Report report, MakeReport(answers));
    std::fputs(ReportText(report).c_str(), stderr);
    std::vector<ArtifactFile> files = {
        {"report.json", ReportJson(report)}, {"report.html", ReportHtml(report)}, {"answers.jsonl", std::move(all)}};
    for (const ReportPicture& picture : report.pictures) files.push_back({picture.file, picture.png});
    return files;
  }

 private:
  struct Item {
    size_t task = 0;
    uint64_t sample = 0;
  };

  // Only a rank that answers needs the model; the finish task does not.
  absl::Status LoadModel() {
    if (answerer_ != nullptr) return absl::OkStatus();
    context_.link->SetPhase(Phase::kLoad);
    VLM_ASSIGN_OR_RETURN(const at::Device device, OpenDevice(context_));
    VLM_ASSIGN_OR_RETURN(answerer_, Answerer::Load(context_.files, model_.folder, data_->manifest.render.chat_template,
                                                   device, context_.clock));
    context_.link->SetPhase(Phase::kEval);
    return absl::OkStatus();
  }

  absl::StatusOr<Question> Ask(const Item& item, Answered* answer) const {
    absl::StatusOr<data::SampleReader::Loaded> loaded = data_->reader->Read(item.sample);
    if (!loaded.ok()) return WithExitCode(loaded.status(), ExitCode::kBadData);
    Question question{std::move(loaded->conversation), {}};
    if (question.conversation.messages.empty() ||
        question.conversation.messages.back().role != data::Role::kAssistant) {
      return WithExitCode(
          absl::InvalidArgumentError(absl::StrCat("a sample to evaluate has no answer: source ",
                                                  settings_.tasks[item.task].source, ", sample ", item.sample)),
          ExitCode::kBadData);
    }
    answer->task = settings_.tasks[item.task].name;
    answer->sample = item.sample;
    answer->expected = TextOf(question.conversation.messages.back());
    question.conversation.messages.pop_back();
    answer->question = TextOf(question.conversation.messages.back());
    const auto kind = question.conversation.meta.find("question_kind");
    answer->kind = kind == question.conversation.meta.end() ? "all" : kind->second;
    // One that has gone bad since it was indexed fails the stage whatever the policy: a score over other questions than
    // the index has would not be the score that was asked for.
    std::vector<float> pixels;
    VLM_RETURN_IF_ERROR(
        WithExitCode(data_->reader->AppendPictures(item.sample, *loaded, &pixels, nullptr), ExitCode::kBadData));
    const size_t each = loaded->images.empty() ? 0 : pixels.size() / loaded->images.size();
    for (size_t i = 0; i < loaded->images.size(); ++i) {
      const auto begin = pixels.begin() + static_cast<std::ptrdiff_t>(i * each);
      question.pictures.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(each));
    }
    return question;
  }

  // The control: the same question with uniform gray.
  static Question Blanked(Question question) {
    for (std::vector<float>& picture : question.pictures) std::fill(picture.begin(), picture.end(), 0.0f);
    return question;
  }

  absl::StatusOr<Report> MakeReport(const std::vector<Answered>& answers) const {
    Report report;
    report.job_id = context_.assignment->job_id;
    report.stage = context_.assignment->stage;
    report.model_digest = model_.digest;
    ScoreOptions options;
    options.margin = settings_.control_margin;
    for (const spec::EvaluateTask& task : settings_.tasks) options.targets[task.name] = task.targets;
    report.scores = Score(answers, options);
    for (const InputArtifact& input : context_.assignment->inputs) {
      const std::string path = input.folder + "/" + kCurvesFile;
      const absl::StatusOr<std::string> lines = ReadFile(context_.files, path, kAnswersBytesMax);
      if (absl::IsNotFound(lines.status())) continue;  // not a training stage
      VLM_RETURN_IF_ERROR(lines.status());
      report.curves.push_back({input.stage, input.kind, ParseCurve(*lines)});
    }
    VLM_RETURN_IF_ERROR(AddPictures(answers, &report));
    return report;
  }

  absl::Status AddPictures(const std::vector<Answered>& answers, Report* report) const {
    const std::vector<Answered> shown =
        ChooseShown(answers, settings_.tasks.at(0).name, static_cast<size_t>(settings_.log_images));
    for (const Answered& answer : shown) {
      VLM_ASSIGN_OR_RETURN(const data::SampleReader::Loaded loaded, data_->reader->Read(answer.sample));
      if (loaded.images.empty() || loaded.Bad(0)) continue;
      const std::string& encoded = loaded.images[0];
      VLM_ASSIGN_OR_RETURN(
          const data::Image image,
          data::DecodeImage(std::as_bytes(std::span(encoded.data(), encoded.size())), data_->pixels.limits));
      VLM_ASSIGN_OR_RETURN(std::string png, data::EncodePng(image));
      report->pictures.push_back(
          {absl::StrFormat("picture-%02d.png", report->pictures.size()), std::move(png), answer});
    }
    return absl::OkStatus();
  }

  const StageContext& context_;
  const spec::EvaluateSettings& settings_;
  std::unique_ptr<IndexedData> data_;
  InputArtifact model_;
  std::vector<Item> items_;
  std::unique_ptr<Answerer> answerer_;
};

}  // namespace

absl::Status RunEvaluate(const StageContext& context) {
  EvaluateStage stage(context);
  VLM_RETURN_IF_ERROR(stage.Init());
  return RunPool(context, &stage);
}

}  // namespace vlm::trainer
