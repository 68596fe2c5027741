// Makes a Respond safe against handlers that answer twice or not at all.
#ifndef VLM_RPC_ANSWER_H_
#define VLM_RPC_ANSWER_H_

#include "rpc/server.h"

namespace vlm::rpc {

// Passes on the first answer only. When the last copy is destroyed unanswered, answers INTERNAL, so that a call
// never outlives its handler in silence. Thread-safe.
Respond AnswerOnce(Respond respond);

}  // namespace vlm::rpc

#endif  // VLM_RPC_ANSWER_H_
