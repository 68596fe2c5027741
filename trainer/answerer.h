// A loaded model that answers questions: the one path for evaluation and chat.
#ifndef VLM_TRAINER_ANSWERER_H_
#define VLM_TRAINER_ANSWERER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "base/status.h"
#include "data/chat_template.h"
#include "data/loader.h"
#include "data/tokenizer/tokenizer.h"
#include "model/generate.h"
#include "train/communication_queue.h"
#include "train/parameter_store.h"
#include "trainer/stages/model_folder.h"

namespace vlm::trainer {

struct Question {
  data::Conversation conversation;           // ends with a user turn
  std::vector<std::vector<float>> pictures;  // [3, size, size] each, as the model sees them
};

struct Reply {
  std::string text;
  bool cut = false;  // by the model's context, before the answer had max_new_tokens
};

// Thread-compatible.
class Answerer {
 public:
  // `chat_template` is a name of data/chat_template.h; the model computes on `device`. Errors name the folder and the
  // file.
  static absl::StatusOr<std::unique_ptr<Answerer>> Load(FileSystem* files, const std::string& folder,
                                                        const std::string& chat_template, at::Device device,
                                                        const Clock* clock);

  // Greedy answers in question order; question and answer together are at most the model's context. `advance` is called
  // for each token of a batch, when set. INVALID_ARGUMENT for a picture where the model takes none, or a question that
  // fills the model's context.
  absl::StatusOr<std::vector<Reply>> Answer(const std::vector<Question>& questions, int64_t max_new_tokens,
                                            const std::function<void()>& advance) const;

  const data::PixelOptions& pixels() const { return pixels_; }
  const ModelConfig& config() const { return config_; }

 private:
  Answerer() = default;
  absl::StatusOr<model::Prompt> ToPrompt(const Question& question) const;

  ModelConfig config_;
  data::PixelOptions pixels_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::unique_ptr<data::ChatTemplate> chat_template_;
  std::unique_ptr<model::Graph> graph_;
  std::unique_ptr<train::Collective> collective_;
  std::unique_ptr<train::CommunicationQueue> queue_;
  std::unique_ptr<train::ParameterStore> store_;
};

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_ANSWERER_H_
