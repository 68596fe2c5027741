#include "rpc/answer.h"

#include <atomic>
#include <utility>

namespace vlm::rpc {
namespace {

class Answer {
 public:
  explicit Answer(Respond respond) : respond_(std::move(respond)) {}
  ~Answer() { Give(absl::InternalError("the handler ended without an answer")); }
  void Give(absl::StatusOr<std::string> answer) {
    if (given_.exchange(true)) return;
    respond_(std::move(answer));
  }

 private:
  Respond respond_;
  std::atomic<bool> given_ = false;
};

}  // namespace

Respond AnswerOnce(Respond respond) {
  return [answer = std::make_shared<Answer>(std::move(respond))](absl::StatusOr<std::string> value) {
    answer->Give(std::move(value));
  };
}

}  // namespace vlm::rpc
