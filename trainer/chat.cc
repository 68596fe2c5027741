#include "trainer/chat.h"

#include <ATen/Parallel.h>

#include "trainer/answerer.h"

namespace vlm::trainer {

absl::StatusOr<std::string> Chat(const ChatOptions& options) {
  at::set_num_threads(options.threads);
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<Answerer> answerer,
                       Answerer::Load(PosixFileSystem(), options.model_folder, "chatml", at::kCPU, RealClock()));
  Question question;
  data::Message message{data::Role::kUser, {}};
  if (!options.image.empty()) {
    VLM_ASSIGN_OR_RETURN(const std::string encoded,
                         ReadFile(PosixFileSystem(), options.image, answerer->pixels().limits.bytes_max));
    if (!answerer->config().llava.has_value()) {
      return absl::InvalidArgumentError("the model takes no pictures: " + options.model_folder);
    }
    std::vector<float> picture;
    VLM_RETURN_IF_ERROR(Annotate(data::AppendPixels(encoded, answerer->pixels(), &picture), options.image));
    question.pictures.push_back(std::move(picture));
    message.content.push_back({data::ContentPart::Kind::kImage, ""});
  }
  message.content.push_back({data::ContentPart::Kind::kText, options.prompt});
  question.conversation.messages.push_back(std::move(message));
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> answers, answerer->Answer({question}, options.max_tokens));
  return answers[0];
}

}  // namespace vlm::trainer
