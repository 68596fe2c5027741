#include "trainer/stages/score.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vlm::trainer {
namespace {

// Counts of one kind of question while answers go by.
struct Tally {
  int64_t total = 0, correct = 0, cut = 0, blank_total = 0, blank_correct = 0;
  std::map<std::string, int64_t> expected;
};

KindScore ScoreOf(const Tally& tally, std::optional<double> target, double margin) {
  KindScore score;
  score.total = tally.total;
  score.correct = tally.correct;
  score.cut = tally.cut;
  score.accuracy = static_cast<double>(tally.correct) / static_cast<double>(tally.total);
  score.interval = WilsonInterval(tally.correct, tally.total);
  const auto majority = std::max_element(tally.expected.begin(), tally.expected.end(),
                                         [](const auto& a, const auto& b) { return a.second < b.second; });
  score.majority_answer = majority->first;
  score.majority = static_cast<double>(majority->second) / static_cast<double>(tally.total);
  score.target = target;
  score.target_met = !target.has_value() || score.accuracy >= *target;
  if (tally.blank_total > 0) {
    score.blank = static_cast<double>(tally.blank_correct) / static_cast<double>(tally.blank_total);
    score.blank_within_margin = std::abs(*score.blank - score.majority) <= margin;
  }
  return score;
}

}  // namespace

Interval WilsonInterval(int64_t correct, int64_t total) {
  constexpr double kZ = 1.959963984540054;  // two-sided 95 %
  const double n = static_cast<double>(total), p = static_cast<double>(correct) / n;
  const double denominator = 1 + kZ * kZ / n;
  const double centre = (p + kZ * kZ / (2 * n)) / denominator;
  const double half = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n)) / denominator;
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

bool ExactMatch(const std::string& expected, const std::string& generated) {
  return absl::StripAsciiWhitespace(expected) == absl::StripAsciiWhitespace(generated);
}

std::vector<Answered> ChooseShown(const std::vector<Answered>& answers, const std::string& task, size_t count) {
  std::map<std::string, std::vector<const Answered*>> by_kind;
  for (const Answered& answer : answers) {
    if (answer.task == task) by_kind[answer.kind].push_back(&answer);
  }
  std::vector<Answered> shown;
  if (by_kind.empty()) return shown;
  const size_t rounds = (count + by_kind.size() - 1) / by_kind.size();
  for (size_t round = 0; round < rounds; ++round) {
    for (const auto& [kind, of_kind] : by_kind) {
      if (shown.size() == count) return shown;
      const size_t stride = std::max<size_t>(1, of_kind.size() / rounds);
      if (round * stride < of_kind.size()) shown.push_back(*of_kind[round * stride]);
    }
  }
  return shown;
}

bool TaskScore::passed() const {
  if (kinds.empty() || !unanswered.empty()) return false;
  return std::all_of(kinds.begin(), kinds.end(),
                     [](const auto& kind) { return kind.second.target_met && kind.second.blank_within_margin; });
}

std::vector<std::string> Findings(const TaskScore& score) {
  if (score.kinds.empty()) return {absl::StrCat("task has no answers: ", score.task)};
  std::vector<std::string> findings;
  const std::string occurring =
      absl::StrJoin(score.kinds, ", ", [](std::string* out, const auto& kind) { absl::StrAppend(out, kind.first); });
  for (const std::string& kind : score.unanswered) {
    findings.push_back(absl::StrCat("task ", score.task, " has a target for a kind that no question is of: ", kind,
                                    "; name one that occurs: ", occurring));
  }
  return findings;
}

std::vector<TaskScore> Score(const std::vector<Answered>& answers, const ScoreOptions& options) {
  std::map<std::string, std::map<std::string, Tally>> tallies;
  for (const auto& [task, targets] : options.targets) tallies[task];
  for (const Answered& answer : answers) {
    Tally& tally = tallies[answer.task][answer.kind];
    ++tally.total;
    ++tally.expected[answer.expected];
    tally.correct += ExactMatch(answer.expected, answer.generated) ? 1 : 0;
    tally.cut += answer.cut ? 1 : 0;
    if (!answer.blank.has_value()) continue;
    ++tally.blank_total;
    tally.blank_correct += ExactMatch(answer.expected, *answer.blank) ? 1 : 0;
  }
  std::vector<TaskScore> scores;
  for (const auto& [task, kinds] : tallies) {
    TaskScore score;
    score.task = task;
    const auto targets = options.targets.find(task);
    for (const auto& [kind, tally] : kinds) {
      std::optional<double> target;
      if (targets != options.targets.end() && targets->second.count(kind) > 0) target = targets->second.at(kind);
      score.kinds[kind] = ScoreOf(tally, target, options.margin);
    }
    if (targets != options.targets.end()) {
      for (const auto& [kind, target] : targets->second) {
        if (!score.kinds.contains(kind)) score.unanswered.push_back(kind);
      }
    }
    scores.push_back(std::move(score));
  }
  return scores;
}

}  // namespace vlm::trainer
