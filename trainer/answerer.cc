#include "trainer/answerer.h"

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "train/buckets.h"
#include "trainer/stages/pool_stages.h"

namespace vlm::trainer {

absl::StatusOr<std::unique_ptr<Answerer>> Answerer::Load(FileSystem* files, const std::string& folder,
                                                         const std::string& chat_template, at::Device device,
                                                         const Clock* clock) {
  std::unique_ptr<Answerer> answerer(new Answerer);
  absl::StatusOr<ModelConfig> config = ReadModelConfig(files, folder);
  if (!config.ok()) return Annotate(config.status(), folder + "/config.json");
  answerer->config_ = *std::move(config);
  if (answerer->config_.llava.has_value()) {
    answerer->pixels_.size = static_cast<int32_t>(answerer->config_.llava->vision.image_size);
  }
  VLM_ASSIGN_OR_RETURN(const std::string json,
                       ReadFile(files, folder + "/" + kTokenizerFile, data::kTokenizerJsonBytesMax));
  VLM_ASSIGN_OR_RETURN(answerer->tokenizer_, data::Tokenizer::FromJson(json));
  VLM_ASSIGN_OR_RETURN(answerer->chat_template_, data::NewChatTemplate(chat_template, answerer->tokenizer_.get()));

  VLM_ASSIGN_OR_RETURN(model::Graph graph, answerer->config_.Build());
  answerer->graph_ = std::make_unique<model::Graph>(std::move(graph));
  answerer->collective_ = train::NewSingleRankCollective();
  answerer->queue_ = std::make_unique<train::CommunicationQueue>(/*overlap=*/false, clock);
  const std::vector<bool> frozen(answerer->graph_->params.size(), false);
  VLM_ASSIGN_OR_RETURN(answerer->store_, train::ParameterStore::Create(
                                             answerer->graph_.get(), train::PlanBuckets(*answerer->graph_, frozen, 1),
                                             {.device = device}, answerer->collective_.get(), answerer->queue_.get()));
  VLM_ASSIGN_OR_RETURN(const OpenedTensors weights, OpenTensors(files, folder, "model"));
  VLM_RETURN_IF_ERROR(Annotate(train::LoadWeights({}, weights.source.get(), answerer->store_.get()), folder));
  for (size_t bucket = 0; bucket < answerer->store_->buckets().size(); ++bucket) {
    VLM_RETURN_IF_ERROR(answerer->store_->Acquire(static_cast<train::BucketId>(bucket)).Wait());
  }
  return answerer;
}

absl::StatusOr<model::Prompt> Answerer::ToPrompt(const Question& question) const {
  const int32_t image_tokens = config_.llava.has_value() ? static_cast<int32_t>(config_.llava->ImageTokens()) : 0;
  if (!question.pictures.empty() && image_tokens == 0) {
    return absl::InvalidArgumentError("the model takes no pictures; ask without one, or choose another model");
  }
  VLM_ASSIGN_OR_RETURN(
      const data::Sample sample,
      chat_template_->Render(question.conversation, {.image_tokens = image_tokens, .generation_prompt = true}));
  if (sample.tokens() >= config_.text.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("the question is longer than the model's context: ", sample.tokens(),
                                                   " of ", config_.text.max_position_embeddings, " tokens"));
  }
  data::HostMicroBatch laid;
  data::AppendSample(sample, &laid);
  model::Prompt prompt{std::move(laid.ids_N), {}, std::move(laid.image_row_V)};
  if (question.pictures.empty()) return prompt;
  const int64_t size = pixels_.size, count = static_cast<int64_t>(question.pictures.size());
  prompt.pixels = at::empty({count, 3, size, size}, at::kFloat);
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<float>& picture = question.pictures[static_cast<size_t>(i)];
    VLM_CHECK(static_cast<int64_t>(picture.size()) == 3 * size * size, "a picture of another size than the model's");
    std::copy(picture.begin(), picture.end(), prompt.pixels[i].data_ptr<float>());
  }
  return prompt;
}

absl::StatusOr<std::vector<Reply>> Answerer::Answer(const std::vector<Question>& questions, int64_t max_new_tokens,
                                                    const std::function<void()>& advance) const {
  std::vector<model::Prompt> prompts;
  for (const Question& question : questions) {
    VLM_ASSIGN_OR_RETURN(model::Prompt prompt, ToPrompt(question));
    prompts.push_back(std::move(prompt));
  }
  model::GenerateOptions options;
  options.max_new_tokens = max_new_tokens;
  options.stop_ids = {chat_template_->stop_id()};
  options.context_max = config_.text.max_position_embeddings;
  options.advance = advance;
  const model::NodeParams params = [this](model::NodeId node) {
    absl::StatusOr<model::Params> views = store_->Views(node);
    VLM_CHECK(views.ok(), std::string(views.status().message()));  // every bucket was acquired by Load
    return *std::move(views);
  };
  VLM_ASSIGN_OR_RETURN(const std::vector<std::vector<int64_t>> ids,
                       model::GreedyGenerate(*graph_, params, prompts, options));
  std::vector<Reply> answers;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::vector<int64_t>& answer = ids[i];
    VLM_ASSIGN_OR_RETURN(std::string text, tokenizer_->Decode(std::vector<int32_t>(answer.begin(), answer.end()),
                                                              data::SpecialTokens::kSkip));
    const bool full = static_cast<int64_t>(prompts[i].ids.size() + answer.size()) >= options.context_max;
    answers.push_back({std::move(text), full && static_cast<int64_t>(answer.size()) < max_new_tokens});
  }
  return answers;
}

}  // namespace vlm::trainer
