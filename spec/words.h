// The words of the job file for each enumeration: one list per type, indexed by value.
#ifndef VLM_SPEC_WORDS_H_
#define VLM_SPEC_WORDS_H_

#include <array>
#include <optional>
#include <string_view>

#include "spec/job.h"

namespace vlm::spec {

template <typename T>
struct Words;  // specialised below: kFirst is the value of the first word

template <>
struct Words<StageKind> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 7> kAll = {"generate", "index", "tokenizer", "pretrain",
                                                           "align",    "sft",   "evaluate"};
};
template <>
struct Words<FailureClass> {
  static constexpr int kFirst = 1;
  static constexpr std::array<std::string_view, 12> kAll = {
      "out_of_memory", "numeric",     "bad_data", "damaged_checkpoint", "incompatible", "user_error", "storage",
      "crash",         "worker_lost", "hang",     "start_timeout",      "peer_lost"};
};
template <>
struct Words<PictureFormat> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 3> kAll = {"jpeg", "png", "mixed"};
};
template <>
struct Words<SplitPattern> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 3> kAll = {"gpt2", "gpt4", "qwen2"};
};
template <>
struct Words<ChatTemplate> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 2> kAll = {"chatml", "plain"};
};
template <>
struct Words<BadPicturePolicy> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 3> kAll = {"fail", "drop", "placeholder"};
};
template <>
struct Words<ConnectorKind> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 1> kAll = {"mlp"};
};
template <>
struct Words<ScheduleKind> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 3> kAll = {"cosine", "linear", "constant"};
};
template <>
struct Words<Precision> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 2> kAll = {"fp32", "bf16"};
};
template <>
struct Words<Control> {
  static constexpr int kFirst = 0;
  static constexpr std::array<std::string_view, 2> kAll = {"none", "blank"};
};

template <typename T>
constexpr std::string_view WordOf(T value) {
  return Words<T>::kAll[static_cast<size_t>(static_cast<int>(value) - Words<T>::kFirst)];
}

// Nothing for a word that is not in the list.
template <typename T>
constexpr std::optional<T> FromWord(std::string_view word) {
  for (size_t i = 0; i < Words<T>::kAll.size(); ++i) {
    if (Words<T>::kAll[i] == word) return static_cast<T>(static_cast<int>(i) + Words<T>::kFirst);
  }
  return std::nullopt;
}

}  // namespace vlm::spec

#endif  // VLM_SPEC_WORDS_H_
