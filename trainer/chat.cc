#include "trainer/chat.h"

#include <ATen/Parallel.h>

#include <cstdio>

#include "data/tokenizer/chat_files.h"
#include "train/torch_edge.h"
#include "trainer/answerer.h"
#include "trainer/stages/model_folder.h"

namespace vlm::trainer {
namespace {

constexpr uint64_t kChatTemplateBytesMax = uint64_t{1} << 20;

// A model tuned with another template has never seen a turn: what it would say to one means nothing.
absl::Status CheckTemplate(const std::string& folder) {
  const std::string path = folder + "/" + kChatTemplateFile;
  const absl::StatusOr<std::string> text = ReadFile(PosixFileSystem(), path, kChatTemplateBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::FailedPreconditionError(
        "the model was not trained for chat, it has no chat template (train it with template chatml): " + folder);
  }
  VLM_RETURN_IF_ERROR(text.status());
  if (*text == data::ChatMlTemplateJinja()) return absl::OkStatus();
  return absl::UnimplementedError("only the service's own ChatML template can be chatted with: " + path);
}

absl::StatusOr<std::string> AnswerOne(const ChatOptions& options) {
  VLM_RETURN_IF_ERROR(CheckTemplate(options.model_folder));
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
  VLM_ASSIGN_OR_RETURN(const std::vector<Reply> answers, answerer->Answer({question}, options.max_tokens, nullptr));
  if (answers[0].cut) {
    std::fprintf(stderr, "vlm-trainer chat: the model's context cut the answer, tokens: %lld\n",
                 static_cast<long long>(answerer->config().text.max_position_embeddings));
  }
  return answers[0].text;
}

}  // namespace

absl::StatusOr<std::string> Chat(const ChatOptions& options) {
  return train::CatchTorch("chat", [&] { return AnswerOne(options); });
}

}  // namespace vlm::trainer
