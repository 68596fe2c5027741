#include "trainer/stages/training_setup.h"

#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "model/init.h"
#include "model/llava.h"
#include "spec/canonical.h"
#include "train/buckets.h"
#include "train/checkpoint_state.h"
#include "train/collectives/peer_mesh.h"
#include "train/collectives/shared_memory_collective.h"
#include "train/collectives/tcp_collective.h"
#include "train/cuda/cuda_library.h"
#include "train/selection.h"
#include "trainer/exit_code.h"
#include "trainer/stages/pool_stages.h"
#include "trainer/stages/training_config.h"
#include "trainer/stages/training_stage.h"

namespace vlm::trainer {
namespace {

constexpr absl::Duration kRendezvousTimeout = absl::Minutes(5);
constexpr uint64_t kStateBytesMax = 1 << 20;

absl::Status LoadWeightsFrom(const StageContext& context, const std::string& stage, bool text_into_llava,
                             train::ParameterStore* store) {
  VLM_ASSIGN_OR_RETURN(const InputArtifact artifact, context.Input(stage));
  VLM_ASSIGN_OR_RETURN(const OpenedTensors source, OpenTensors(context.files, artifact.folder, "model"));
  train::WeightMapping mapping;
  if (text_into_llava) {
    mapping.rename = [](const std::string& name) { return model::TextNameInLlava(name); };
    mapping.required = {"llm"};
  }
  const absl::Status loaded =
      Annotate(train::LoadWeights(mapping, source.source.get(), store), "weights of " + artifact.folder);
  return absl::IsInvalidArgument(loaded) ? WithExitCode(loaded, ExitCode::kIncompatible) : loaded;
}

// Shared memory where all ranks are on one machine, TCP otherwise.
absl::StatusOr<std::unique_ptr<train::Collective>> ConnectHosts(const StageContext& context,
                                                                const train::PeerListener& listener,
                                                                const std::vector<LinkEndpoint>& endpoints) {
  std::vector<train::PeerAddress> peers;
  bool one_machine = true;
  for (const LinkEndpoint& endpoint : endpoints) {
    peers.push_back({endpoint.unix_socket, endpoint.tcp, endpoint.boot_id});
    one_machine = one_machine && endpoint.boot_id == listener.address().boot_id;
  }
  const Assignment& assignment = *context.assignment;
  const train::MeshIdentity identity = {assignment.rank, assignment.world, assignment.fence, assignment.secret};
  const train::MeshTransport transport = one_machine ? train::MeshTransport::kUnix : train::MeshTransport::kTcp;
  VLM_ASSIGN_OR_RETURN(std::vector<train::UniqueFd> sockets, train::ConnectMesh(identity, listener, peers, transport, 0,
                                                                                {kRendezvousTimeout, context.clock}));
  const train::CollectiveOptions options = {.clock = context.clock};
  return one_machine ? train::NewSharedMemoryCollective(identity, std::move(sockets), options)
                     : train::NewTcpCollective(identity, std::move(sockets), options);
}

// Of one size and yet another tokenizer, every id would mean something else.
absl::Status CheckTokenizer(const StageContext& context, const InputArtifact& parent, const IndexedData& data) {
  VLM_ASSIGN_OR_RETURN(const std::string json,
                       ReadFile(context.files, parent.folder + "/" + kTokenizerFile, data::kTokenizerJsonBytesMax));
  if (Sha256Of(json).Hex() == data.manifest.render.tokenizer_digest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model and index were made with different tokenizers; index the data with the tokenizer of the "
                   "model: model of stage ",
                   parent.stage, ", index of stage ", data.artifact.stage));
}

}  // namespace

absl::StatusOr<std::unique_ptr<IndexedData>> OpenIndexedData(const StageContext& context, const std::string& stage) {
  auto data = std::make_unique<IndexedData>();
  VLM_ASSIGN_OR_RETURN(data->artifact, context.Input(stage));
  VLM_ASSIGN_OR_RETURN(data->manifest, data::ReadManifest(context.files, data->artifact.folder));
  VLM_ASSIGN_OR_RETURN(ReadTokenizerFile read, ReadTokenizer(context.files, data->artifact.folder));
  if (Sha256Of(read.json).Hex() != data->manifest.render.tokenizer_digest) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer beside the manifest is not the one the data was indexed with; index the data again: ",
                     data->artifact.folder, "/", kTokenizerFile));
  }
  data->tokenizer = std::move(read.tokenizer);
  VLM_ASSIGN_OR_RETURN(data->chat_template,
                       data::NewChatTemplate(data->manifest.render.chat_template, data->tokenizer.get()));
  data->pixels.size = data->manifest.render.image_size;
  absl::StatusOr<std::unique_ptr<data::SampleReader>> reader =
      data::SampleReader::Create(context.files, &data->manifest, data->chat_template.get(), data->pixels);
  if (absl::IsFailedPrecondition(reader.status()) || absl::IsNotFound(reader.status())) {
    return WithExitCode(
        Annotate(reader.status(), "restore the data files, or run their index stage again: stage " + stage),
        ExitCode::kBadData);
  }
  VLM_RETURN_IF_ERROR(reader.status());
  data->reader = *std::move(reader);
  return data;
}

absl::StatusOr<TrainingPlan> PlanTraining(const StageContext& context, const IndexedData& data) {
  const spec::TrainingSettings& settings = context.stage->training();
  data::BatchOptions options;
  options.seed = context.stage->seed;
  for (const spec::MixtureEntry& entry : settings.data.mixture) {
    options.mixture.push_back({entry.source, entry.weight, static_cast<uint64_t>(entry.stop.value_or(0))});
  }
  options.global_batch = static_cast<uint32_t>(settings.train.global_batch);
  options.micro_batch = static_cast<uint32_t>(settings.train.micro_batch);
  options.packing = settings.train.packing;
  VLM_ASSIGN_OR_RETURN(data::BatchPlan batches, data::BatchPlan::Create(&data.manifest, options));
  uint64_t steps = 0;
  if (settings.train.length.steps.has_value()) {
    steps = static_cast<uint64_t>(*settings.train.length.steps);
  } else if (settings.train.length.epochs.has_value()) {
    steps = batches.StepsOf(*settings.train.length.epochs);
  } else {
    const int64_t step_tokens = int64_t{settings.train.global_batch} * data.manifest.render.context;
    steps = static_cast<uint64_t>((*settings.train.length.tokens + step_tokens - 1) / step_tokens);
  }
  const std::string fingerprint = Sha256Of(absl::StrCat(batches.Fingerprint(data.artifact.digest).Hex(), " ",
                                                        spec::SemanticDigest(*context.stage).Hex()))
                                      .Hex();
  return TrainingPlan{std::move(batches), steps, fingerprint};
}

absl::StatusOr<ModelConfig> TrainingModelConfig(const StageContext& context, const IndexedData& data) {
  const spec::TrainingModel& settings = context.stage->training().model;
  ModelConfig config;
  if (settings.text.has_value()) {
    config.text = TextConfigOf(*settings.text, data.tokenizer->vocab_size());
  } else {
    const std::string& parent = settings.from_stage.empty() ? settings.llm_stage : settings.from_stage;
    VLM_ASSIGN_OR_RETURN(const InputArtifact artifact, context.Input(parent));
    absl::StatusOr<ModelConfig> read = ReadModelConfig(context.files, artifact.folder);
    if (!read.ok()) return Annotate(read.status(), artifact.folder + "/config.json");
    config = *std::move(read);
    VLM_RETURN_IF_ERROR(CheckTokenizer(context, artifact, data));
  }
  if (settings.vision.has_value()) {
    model::LlavaConfig llava;
    llava.text = config.text;
    llava.vision = VisionConfigOf(*settings.vision);
    const std::optional<int32_t> image = data.tokenizer->TokenId("<|image|>");
    if (!image.has_value()) return absl::InvalidArgumentError("the tokenizer reserves no <|image|> token");
    llava.image_token_index = *image;
    config.llava = llava;
  }
  if (config.text.vocab_size != data.tokenizer->vocab_size()) {
    return absl::InvalidArgumentError(absl::StrCat("model and tokenizer differ in vocabulary: ", config.text.vocab_size,
                                                   " and ", data.tokenizer->vocab_size(), " entries"));
  }
  if (config.llava.has_value() && (config.llava->vision.image_size != data.manifest.render.image_size ||
                                   config.llava->ImageTokens() != data.manifest.render.image_tokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat("model and index differ in pictures: the model takes ", config.llava->vision.image_size,
                     " pixels and ", config.llava->ImageTokens(), " tokens, stage ", data.artifact.stage, " has ",
                     data.manifest.render.image_size, " and ", data.manifest.render.image_tokens));
  }
  return config;
}

absl::StatusOr<at::Device> OpenDevice(const StageContext& context) {
  if (!context.assignment->cuda) return at::Device(at::kCPU);
  VLM_RETURN_IF_ERROR(train::LoadCudaDevices());
  return at::Device(at::kCUDA, 0);  // the worker shows a rank its own GPU alone
}

absl::StatusOr<std::unique_ptr<train::Collective>> ConnectRanks(const StageContext& context) {
  const Assignment& assignment = *context.assignment;
  if (assignment.world == 1) {
    VLM_RETURN_IF_ERROR(context.link->Rendezvous({}, kRendezvousTimeout).status());
    return train::NewSingleRankCollective();
  }
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<train::PeerListener> listener,
                       train::PeerListener::Create(assignment.run_folder, "127.0.0.1"));
  const train::PeerAddress& mine = listener->address();
  LinkEndpoint posted = {mine.unix_socket, mine.tcp, mine.boot_id, ""};
  const train::NcclBackend* nccl = nullptr;
  if (assignment.cuda) {
    VLM_ASSIGN_OR_RETURN(nccl, train::LoadNcclBackend());
    if (assignment.rank == 0) {
      VLM_ASSIGN_OR_RETURN(posted.nccl_unique_id, nccl->NewUniqueId());
    }
  }
  VLM_ASSIGN_OR_RETURN(const std::vector<LinkEndpoint> endpoints, context.link->Rendezvous(posted, kRendezvousTimeout));
  VLM_ASSIGN_OR_RETURN(std::unique_ptr<train::Collective> host, ConnectHosts(context, *listener, endpoints));
  if (nccl == nullptr) return host;
  return nccl->Connect({.unique_id = endpoints[0].nccl_unique_id, .clock = context.clock}, std::move(host));
}

absl::Status BuildTraining(const StageContext& context, const ModelConfig& config, at::Device device, uint64_t steps,
                           TrainingParts* parts) {
  const spec::TrainSettings& settings = context.stage->training().train;
  VLM_ASSIGN_OR_RETURN(model::Graph graph, config.Build());
  parts->graph = std::make_unique<model::Graph>(std::move(graph));
  parts->queue = std::make_unique<train::CommunicationQueue>(settings.overlap, context.clock);
  VLM_ASSIGN_OR_RETURN(const std::vector<bool> trainable,
                       train::SelectTrainable(*parts->graph, TrainablePatterns(settings)));
  VLM_ASSIGN_OR_RETURN(parts->store,
                       train::ParameterStore::Create(
                           parts->graph.get(), train::PlanBuckets(*parts->graph, trainable, parts->collective->world()),
                           StoreOptionsOf(settings, device), parts->collective.get(), parts->queue.get()));
  VLM_ASSIGN_OR_RETURN(parts->step, train::TrainingStep::Create(
                                        TrainingOptionsOf(*context.stage, config, *parts->graph, trainable, steps),
                                        parts->store.get(), context.clock));
  return absl::OkStatus();
}

absl::Status LoadStart(const StageContext& context, const ModelConfig& config, train::ParameterStore* store) {
  for (size_t param = 0; param < store->graph().params.size(); ++param) {
    VLM_RETURN_IF_ERROR(store->WriteParameter(static_cast<model::ParamId>(param),
                                              model::Initialize(store->graph().params[param], context.stage->seed)));
  }
  const spec::TrainingModel& settings = context.stage->training().model;
  if (!settings.from_stage.empty()) return LoadWeightsFrom(context, settings.from_stage, false, store);
  if (!settings.llm_stage.empty()) {
    return LoadWeightsFrom(context, settings.llm_stage, config.llava.has_value(), store);
  }
  return absl::OkStatus();
}

model::MicroBatch ToMicroBatch(const data::HostMicroBatch& host, const data::PixelOptions& pixels) {
  auto longs = [](const std::vector<int64_t>& values) {
    if (values.empty()) return at::Tensor();
    return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong);
  };
  auto floats = [](const std::vector<float>& values, at::IntArrayRef shape) {
    if (values.empty()) return at::Tensor();
    return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat);
  };
  model::MicroBatch batch;
  batch.global_index = host.index;
  batch.counts = {.tokens = static_cast<int64_t>(host.ids_N.size()),
                  .targets = static_cast<int64_t>(host.target_id_K.size()),
                  .documents = static_cast<int64_t>(host.document_starts.size()) - 1,
                  .images = host.images,
                  .vision_tokens = static_cast<int64_t>(host.image_row_V.size())};
  batch.ids_N = longs(host.ids_N);
  batch.positions_N = longs(host.positions_N);
  batch.document_starts = host.document_starts;
  batch.target_index_K = longs(host.target_index_K);
  batch.target_id_K = longs(host.target_id_K);
  batch.target_weight_K = floats(host.target_weight_K, {static_cast<int64_t>(host.target_weight_K.size())});
  batch.pixels = floats(host.pixels, {host.images, 3, pixels.size, pixels.size});
  batch.image_row_V = longs(host.image_row_V);
  return batch;
}

}  // namespace vlm::trainer
