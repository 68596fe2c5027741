#include "train/selection.h"

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vlm::train {
namespace {

using model::Graph;

constexpr size_t kNamesInMessageMax = 40;

bool IsOrBeginsWith(std::string_view name, std::string_view prefix) {
  return name.substr(0, prefix.size()) == prefix && (name.size() == prefix.size() || name[prefix.size()] == '.');
}

// '*' stands for any number of characters, '?' for one. Linear in the name for each star (greedy with one backtrack
// point).
bool WildcardMatches(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

// The number after "prefix." in a node's name, and nothing for another name.
std::optional<int64_t> NumberAfter(std::string_view name, std::string_view prefix) {
  if (!IsOrBeginsWith(name, prefix) || name.size() == prefix.size()) return std::nullopt;
  std::string_view rest = name.substr(prefix.size() + 1);
  rest = rest.substr(0, rest.find('.'));
  int64_t number = 0;
  if (!absl::SimpleAtoi(absl::string_view(rest.data(), rest.size()), &number)) return std::nullopt;
  return number;
}

struct BlockRange {
  std::string_view prefix;
  std::string_view first, last;  // as written; empty: from the start, to the end
  bool single = false;
};

absl::Status Malformed(std::string_view pattern) {
  return absl::InvalidArgumentError(
      absl::StrCat("malformed range of blocks; write name[first:end], name[-4:] or name[7]: ",
                   absl::string_view(pattern.data(), pattern.size())));
}

absl::StatusOr<BlockRange> ParseRange(std::string_view pattern) {
  const size_t open = pattern.find('[');
  if (open == 0 || pattern.back() != ']') return Malformed(pattern);
  BlockRange range;
  range.prefix = pattern.substr(0, open);
  const std::string_view inside = pattern.substr(open + 1, pattern.size() - open - 2);
  const size_t colon = inside.find(':');
  range.single = colon == std::string_view::npos;
  range.first = inside.substr(0, colon);
  if (!range.single) range.last = inside.substr(colon + 1);
  if (range.single && range.first.empty()) return Malformed(pattern);
  return range;
}

struct Blocks {
  int64_t first = 0, last = 0;  // [first, last)
};

// The blocks that a range names among `count`, as in Python: negative numbers count from the end, the ends of a range
// are clamped, a single number outside [-count, count) names nothing.
absl::StatusOr<Blocks> Resolve(const BlockRange& range, int64_t count, std::string_view pattern) {
  const auto end = [&](std::string_view text, int64_t absent, int64_t* value) {
    *value = absent;
    if (!text.empty() && !absl::SimpleAtoi(absl::string_view(text.data(), text.size()), value)) return false;
    if (*value < 0) *value += count;
    return true;
  };
  Blocks blocks;
  if (!end(range.first, 0, &blocks.first) || !end(range.last, count, &blocks.last)) return Malformed(pattern);
  if (range.single) {
    if (blocks.first < 0 || blocks.first >= count) return Blocks{};
    return Blocks{blocks.first, blocks.first + 1};
  }
  return Blocks{std::clamp<int64_t>(blocks.first, 0, count), std::clamp<int64_t>(blocks.last, 0, count)};
}

absl::StatusOr<std::vector<bool>> SelectNodesByRange(const Graph& graph, std::string_view pattern) {
  VLM_ASSIGN_OR_RETURN(const BlockRange range, ParseRange(pattern));
  int64_t count = 0;
  for (const model::Node& node : graph.nodes) {
    if (const auto number = NumberAfter(node.name, range.prefix)) count = std::max(count, *number + 1);
  }
  VLM_ASSIGN_OR_RETURN(const Blocks blocks, Resolve(range, count, pattern));
  std::vector<bool> selected(graph.nodes.size(), false);
  for (size_t node = 0; node < graph.nodes.size(); ++node) {
    const auto number = NumberAfter(graph.nodes[node].name, range.prefix);
    selected[node] = number.has_value() && *number >= blocks.first && *number < blocks.last;
  }
  return selected;
}

absl::Status NothingNamed(const Graph& graph, std::string_view pattern) {
  std::set<std::string> names;
  for (const model::Node& node : graph.nodes) {
    if (!node.params.empty() && names.size() < kNamesInMessageMax) names.insert(node.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("pattern names no parameter: \"",
                                                 absl::string_view(pattern.data(), pattern.size()),
                                                 "\"; nodes that have some: ", absl::StrJoin(names, ", ")));
}

}  // namespace

absl::StatusOr<std::vector<bool>> SelectParameters(const Graph& graph, std::string_view pattern) {
  std::vector<bool> selected(graph.params.size(), false);
  std::vector<bool> nodes(graph.nodes.size(), false);
  if (pattern.find('[') != std::string_view::npos) {
    VLM_ASSIGN_OR_RETURN(nodes, SelectNodesByRange(graph, pattern));
  } else {
    for (size_t node = 0; node < graph.nodes.size(); ++node)
      nodes[node] = IsOrBeginsWith(graph.nodes[node].name, pattern);
    for (size_t param = 0; param < graph.params.size(); ++param) {
      const std::string& name = graph.params[param].name;
      selected[param] = IsOrBeginsWith(name, pattern) || WildcardMatches(pattern, name);
    }
  }
  for (size_t node = 0; node < graph.nodes.size(); ++node) {
    if (!nodes[node]) continue;
    for (model::ParamId param : graph.nodes[node].params) selected[param] = true;
  }
  if (std::find(selected.begin(), selected.end(), true) == selected.end()) return NothingNamed(graph, pattern);
  return selected;
}

absl::StatusOr<std::vector<bool>> SelectByGlob(const Graph& graph, std::string_view glob) {
  std::vector<bool> selected(graph.params.size(), false);
  for (size_t param = 0; param < selected.size(); ++param) {
    selected[param] = WildcardMatches(glob, graph.params[param].name);
  }
  if (std::find(selected.begin(), selected.end(), true) != selected.end()) return selected;
  std::vector<std::string> names;
  for (const model::ParamSpec& param : graph.params) {
    if (names.size() < kNamesInMessageMax) names.push_back(param.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("pattern matches no parameter's whole name, write * for a part of it: \"",
                   absl::string_view(glob.data(), glob.size()), "\"; some names: ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<std::vector<bool>> SelectTrainable(const Graph& graph, const std::vector<std::string>& patterns) {
  if (patterns.empty()) return std::vector<bool>(graph.params.size(), true);
  std::vector<bool> trainable(graph.params.size(), false);
  for (const std::string& pattern : patterns) {
    VLM_ASSIGN_OR_RETURN(const std::vector<bool> selected, SelectParameters(graph, pattern));
    for (size_t param = 0; param < trainable.size(); ++param) trainable[param] = trainable[param] || selected[param];
  }
  return trainable;
}

}  // namespace vlm::train
