// Exact-match accuracy with a confidence interval, per kind of question and against two baselines. Pure.
#ifndef VLM_TRAINER_STAGES_SCORE_H_
#define VLM_TRAINER_STAGES_SCORE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vlm::trainer {

// One answered question.
struct Answered {
  std::string task, kind;  // "scenes", "color"
  uint64_t sample = 0;     // number in the manifest
  std::string question, expected, generated;
  std::optional<std::string> blank;  // the answer with a blank picture in place of the real one
  bool cut = false;                  // the model's context ended the answer
};

struct Interval {
  double low = 0, high = 0;
};
// Wilson's score interval at 95 % (Wilson 1927). Requires 0 <= correct <= total, total > 0.
Interval WilsonInterval(int64_t correct, int64_t total);

// Up to `count` answers of `task` to show: each kind of question in turn, and of a kind at equal strides.
std::vector<Answered> ChooseShown(const std::vector<Answered>& answers, const std::string& task, size_t count);

// Equal but for white space at the ends.
bool ExactMatch(const std::string& expected, const std::string& generated);

struct KindScore {
  int64_t total = 0, correct = 0;
  int64_t cut = 0;  // answers that the model's context ended
  double accuracy = 0;
  Interval interval;
  std::string majority_answer;
  double majority = 0;          // accuracy of always giving it
  std::optional<double> blank;  // accuracy with blank pictures
  std::optional<double> target;
  bool target_met = true;
  bool blank_within_margin = true;  // |blank - majority| <= margin
};

struct TaskScore {
  std::string task;
  std::map<std::string, KindScore> kinds;
  std::vector<std::string> unanswered = {};  // kinds with a target that no question is of
  bool passed() const;
};

// What is wrong with the task itself, one sentence each, for its author: no answers at all, or targets for kinds that
// do not occur. Such a task has not passed.
std::vector<std::string> Findings(const TaskScore& score);

struct ScoreOptions {
  std::map<std::string, std::map<std::string, double>> targets;  // by task, kind
  double margin = 0.05;
};
// Every task that has answers or stands in `options.targets`, in the order of their names.
std::vector<TaskScore> Score(const std::vector<Answered>& answers, const ScoreOptions& options);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_SCORE_H_
