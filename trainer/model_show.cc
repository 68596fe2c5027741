#include "trainer/model_show.h"

#include <algorithm>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file_system.h"
#include "model/llava.h"
#include "spec/compose.h"
#include "spec/parse.h"
#include "train/adamw.h"
#include "train/memory_estimate.h"
#include "train/schedule.h"
#include "train/selection.h"
#include "trainer/stages/training_config.h"

namespace vlm::trainer {
namespace {

std::string Explained(const spec::Diagnostics& diagnostics) {
  std::string text = "job file is not valid:";
  for (const spec::Diagnostic& diagnostic : diagnostics.all()) absl::StrAppend(&text, "\n", diagnostic.ToString());
  return text;
}

absl::StatusOr<spec::Job> ReadJob(const ModelShowOptions& options) {
  spec::Diagnostics diagnostics;
  const std::optional<std::string> composed =
      spec::Compose(PosixFileSystem(), options.job_file, options.overrides, &diagnostics);
  std::optional<spec::Job> job;
  if (composed) job = spec::ParseJob(*composed, options.job_file, &diagnostics);
  if (!job) return absl::InvalidArgumentError(Explained(diagnostics));
  return *std::move(job);
}

bool Trains(const spec::Stage& stage) { return std::holds_alternative<spec::TrainingSettings>(stage.settings); }

absl::StatusOr<const spec::Stage*> ChooseStage(const spec::Job& job, const std::string& name) {
  const spec::Stage* last = nullptr;
  for (const spec::Stage& stage : job.stages) {
    if (Trains(stage) && (name.empty() || stage.name == name)) last = &stage;
  }
  if (last != nullptr) return last;
  if (name.empty()) return absl::InvalidArgumentError("no stage of the job trains");
  return absl::InvalidArgumentError(absl::StrCat(spec::FindStage(job, name) == nullptr
                                                     ? "the job has no stage of this name: "
                                                     : "a stage of this kind trains no model: ",
                                                 name));
}

std::string PartsTable(const model::Graph& graph, const std::vector<bool>& trainable) {
  struct Part {
    int64_t elements = 0, trained = 0;
  };
  std::map<std::string, Part> parts;
  Part all;
  for (size_t i = 0; i < graph.params.size(); ++i) {
    const int64_t elements = train::NumElements(graph.params[i].shape);
    for (Part* const part : {&parts[std::string(model::ParameterGroup(graph.params[i].name))], &all}) {
      part->elements += elements;
      if (trainable[i]) part->trained += elements;
    }
  }
  std::string text = absl::StrFormat("%-12s %15s %15s\n", "part", "parameters", "trained");
  for (const auto& [name, part] : parts)
    absl::StrAppendFormat(&text, "%-12s %15d %15d\n", name, part.elements, part.trained);
  return text + absl::StrFormat("%-12s %15d %15d\n", "all", all.elements, all.trained);
}

std::string MemoryTable(const train::ResidentBytes& bytes) {
  std::string text;
  for (const auto& [name, size] :
       std::initializer_list<std::pair<const char*, int64_t>>{{"parameters", bytes.parameters},
                                                              {"gathered", bytes.gathered},
                                                              {"gradients", bytes.gradients},
                                                              {"master", bytes.master},
                                                              {"moments", bytes.moments},
                                                              {"activations", bytes.activations},
                                                              {"scratch", bytes.scratch},
                                                              {"snapshot", bytes.snapshot},
                                                              {"at most", train::PeakBytes(bytes)}}) {
    absl::StrAppendFormat(&text, "%-12s %15d %11.1f MiB\n", name, size, static_cast<double>(size) / (1 << 20));
  }
  return text +
         "Scratch is used while a save gathers state, when there are no activations. A snapshot lives until its save "
         "is\n"
         "written; where saves take longer than the steps between them, there may be two.\n";
}

// Of one row. A generated sample has one; files may have any number, and so may rows that are packs: then the context
// is what bounds it.
int64_t PicturesOfRow(const spec::TrainingSettings& settings, const ModelConfig& config,
                      const spec::IndexSettings& index) {
  bool generated = true;
  for (const spec::MixtureEntry& entry : settings.data.mixture) {
    for (const spec::IndexSource& source : index.sources) {
      if (source.name == entry.source) generated &= !source.from.stage.empty();
    }
  }
  if (generated && !settings.train.packing) return 1;
  return std::max<int64_t>(1, index.context / config.llava->ImageTokens());
}

model::Counts LargestMicroBatch(const spec::TrainingSettings& settings, const ModelConfig& config,
                                const spec::IndexSettings& index) {
  model::Counts counts;
  counts.documents = settings.train.micro_batch;
  counts.tokens = counts.documents * index.context;
  counts.targets = counts.tokens;
  if (config.llava.has_value()) {
    counts.images = counts.documents * PicturesOfRow(settings, config, index);
    counts.vision_tokens = counts.images * config.llava->ImageTokens();
  }
  return counts;
}

}  // namespace

absl::StatusOr<std::string> ModelShow(const ModelShowOptions& options) {
  VLM_ASSIGN_OR_RETURN(const spec::Job job, ReadJob(options));
  VLM_ASSIGN_OR_RETURN(const spec::Stage* const stage, ChooseStage(job, options.stage));
  const spec::TrainingSettings& settings = stage->training();
  const int world = options.ranks > 0 ? options.ranks : stage->ranks.max;
  const ModelConfig config = ModelConfigOf(job, *stage);
  VLM_ASSIGN_OR_RETURN(const model::Graph graph, config.Build());
  VLM_ASSIGN_OR_RETURN(const std::vector<bool> trainable,
                       train::SelectTrainable(graph, TrainablePatterns(settings.train)));
  const std::vector<train::BucketSpec> buckets = train::PlanBuckets(graph, trainable, world);
  const train::TrainingOptions training = TrainingOptionsOf(*stage, config, graph, trainable, /*steps=*/1);
  VLM_ASSIGN_OR_RETURN(const train::GroupTable groups, train::ResolveGroups(graph, buckets, training.optimizer));
  const train::StoreOptions store = StoreOptionsOf(settings.train, at::kCPU);
  train::PlanOptions plan = training.plan;
  plan.release_after_use = train::ShardsParameters(store.zero, world);
  const spec::IndexSettings& index = spec::FindStage(job, settings.data.index_stage)->index();
  const model::Counts counts = LargestMicroBatch(settings, config, index);
  const train::ResidentBytes bytes = train::EstimateMemory(
      graph, buckets, train::Plan(graph, buckets, counts.images > 0, plan), {store, world}, counts);
  return absl::StrCat(
      "stage ", stage->name, " (", std::string(spec::StageKindName(stage->kind)), ")\n\n", PartsTable(graph, trainable),
      "\n", groups.ToString(graph),
      absl::StrFormat(
          "\nmemory of one of %d ranks: zero %d, %s, %s; micro-batch of %d rows of %d tokens, %d pictures\n", world,
          settings.train.zero, store.compute == at::kFloat ? "fp32" : "bf16",
          plan.recompute ? "recomputing" : "saving activations", counts.documents, index.context, counts.images),
      MemoryTable(bytes));
}

}  // namespace vlm::trainer
