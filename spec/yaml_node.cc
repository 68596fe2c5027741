#include "spec/yaml_node.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <numeric>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "spec/parse.h"
#include "spec/plain_yaml.h"

namespace vlm::spec {
namespace {

// Thrown by the handler to leave yaml-cpp's recursion at the first event over a limit; caught in ReadYaml.
struct Refused {
  Place at;
  std::string message;
};

// yaml-cpp counts columns in bytes; people count characters.
class LineTable {
 public:
  explicit LineTable(std::string_view text) : text_(text) {
    starts_.push_back(0);
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') starts_.push_back(i + 1);
    }
  }

  int32_t Column(int32_t line, int32_t bytes) const {
    if (line < 0 || static_cast<size_t>(line) >= starts_.size()) return bytes + 1;
    const std::string_view rest = text_.substr(starts_[line], std::max(bytes, 0));
    return 1 + static_cast<int32_t>(std::count_if(rest.begin(), rest.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  }

 private:
  std::string_view text_;
  std::vector<size_t> starts_;
};

// Builds the tree from yaml-cpp's events. A collection's event comes before yaml-cpp descends into it, so a
// limit thrown here bounds its recursion too.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const LineTable& lines, std::shared_ptr<const std::string> source, Diagnostics* diagnostics)
      : lines_(lines), source_(std::move(source)), diagnostics_(diagnostics) {}

  Place At(const YAML::Mark& mark) const {
    if (mark.is_null()) return {source_, 1, 1};
    return {source_, mark.line + 1, lines_.Column(mark.line, mark.column)};
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) throw Refused{At(mark), "a job file is one document: remove what follows '---'"};
  }
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    throw Refused{At(mark), absl::StrCat("anchors are not allowed in a job file: &", name)};
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Refused{At(mark), "aliases are not allowed in a job file"};
  }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    YamlNode node;
    node.at = At(mark);
    Value(std::move(node));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    RefuseTag(mark, tag);
    const bool quoted = tag == "!";
    if (!quoted && (value.empty() || value == "~" || value == "null")) return OnNull(mark, 0);
    Value(ScalarNode(value, At(mark), quoted));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    RefuseTag(mark, tag);
    Open(YamlNode::Kind::kList, mark);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    RefuseTag(mark, tag);
    Open(YamlNode::Kind::kMap, mark);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapEnd() override {
    ReportDuplicates(open_.back().node);
    Close();
  }

  bool done() const { return done_; }
  YamlNode TakeRoot() { return std::move(root_); }

 private:
  struct OpenNode {
    YamlNode node;
    bool has_key = false;  // a map's next value belongs to entries.back()
  };

  void RefuseTag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") {
      throw Refused{At(mark), absl::StrCat("tags are not allowed in a job file: ", tag)};
    }
  }

  void Open(YamlNode::Kind kind, const YAML::Mark& mark) {
    if (!open_.empty() && open_.back().node.is_map() && !open_.back().has_key) {
      throw Refused{At(mark), "a key must be a plain word, not a list or map"};
    }
    if (open_.size() >= kDepthMax) {
      throw Refused{At(mark), absl::StrCat("nested too deeply: the limit is ", kDepthMax, " levels")};
    }
    OpenNode open;
    open.node.kind = kind;
    open.node.at = At(mark);
    open_.push_back(std::move(open));
  }

  void Close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    Value(std::move(node));
  }

  void Value(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      done_ = true;
      return;
    }
    OpenNode& parent = open_.back();
    if (parent.node.is_list()) {
      parent.node.items.push_back(std::move(node));
    } else if (parent.has_key) {
      // "train:" with nothing behind it: yaml-cpp's place is that of the next token.
      if (node.is_null()) node.at = parent.node.entries.back().at;
      parent.node.entries.back().value = std::move(node);
      parent.has_key = false;
    } else {
      parent.node.entries.push_back({std::move(node.scalar), node.at, {}});
      parent.node.entries.back().value.at = node.at;
      parent.has_key = true;
    }
  }

  // Removes the later of two equal keys after reporting it, so that the rest is checked once.
  void ReportDuplicates(YamlNode& map) {
    std::vector<size_t> order(map.entries.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return map.entries[a].key < map.entries[b].key; });
    std::vector<bool> drop(order.size(), false);
    bool any = false;
    for (size_t i = 1; i < order.size(); ++i) {
      const YamlEntry& first = map.entries[order[i - 1]];
      const YamlEntry& again = map.entries[order[i]];
      if (first.key != again.key) continue;
      diagnostics_->Add({"", again.at.ToPosition(), absl::StrCat("duplicate key: '", again.key, "'"),
                         absl::StrCat("it stands already in line ", first.at.line)});
      drop[order[i]] = any = true;
    }
    if (!any) return;
    std::vector<YamlEntry> kept;
    for (size_t i = 0; i < map.entries.size(); ++i) {
      if (!drop[i]) kept.push_back(std::move(map.entries[i]));
    }
    map.entries = std::move(kept);
  }

  const LineTable& lines_;
  const std::shared_ptr<const std::string> source_;
  Diagnostics* const diagnostics_;
  std::vector<OpenNode> open_;
  YamlNode root_;
  int documents_ = 0;
  bool done_ = false;
};

constexpr size_t kBytesAtOnce = 64;

// Whether the next kBytesAtOnce bytes are all printable ASCII or ends of lines, as in nearly every file. Without a
// branch per byte: compilers turn it into a few wide comparisons.
bool AllPlain(const char* bytes) {
  unsigned char other = 0;
  for (size_t i = 0; i < kBytesAtOnce; ++i) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    other |= static_cast<unsigned char>((byte < 0x20 || byte > 0x7e) & (byte != '\n'));
  }
  return other == 0;
}

// False, with a diagnostic, when a byte is no part of readable text.
bool CheckBytes(std::string_view text, const std::string& source, Diagnostics* diagnostics) {
  if (text.size() > kJobBytesMax) {
    diagnostics->Add({"",
                      {source, 0, 0},
                      absl::StrCat("the file is too large: ", text.size(), " bytes, the limit is ", kJobBytesMax),
                      ""});
    return false;
  }
  for (size_t i = 0; i < text.size();) {
    if (text.size() - i >= kBytesAtOnce && AllPlain(text.data() + i)) {
      i += kBytesAtOnce;
      continue;
    }
    const char c = text[i];
    if ((c >= 0x20 && c < 0x7f) || c == '\n') {
      ++i;
      continue;
    }
    const size_t length = Utf8CharacterBytes(text.substr(i));
    const bool control = static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\r';
    if (length == 0 || control || c == '\x7f') {
      const auto line = static_cast<int32_t>(std::count(text.begin(), text.begin() + i, '\n'));
      const size_t start = text.substr(0, i).rfind('\n') + 1;  // 0 without one
      diagnostics->Add({"",
                        {source, line + 1, LineTable(text).Column(line, static_cast<int32_t>(i - start))},
                        length == 0 ? "the file is not UTF-8 text" : "control characters are not allowed",
                        ""});
      return false;
    }
    i += length;
  }
  return true;
}

// Finds the place where [ and { nest beyond the limit, outside quotes and comments, before yaml-cpp sees the text:
// it queues a whole line of them and takes a long one for a key. Text in a block scalar counts like any other.
bool CheckFlowDepth(std::string_view text, const std::string& source, Diagnostics* diagnostics) {
  int depth = 0;
  int32_t line = 1, column = 0;
  char quote = 0, before = '\n';
  bool comment = false;
  for (const char c : text) {
    column += (c & 0xC0) != 0x80 ? 1 : 0;
    const bool starts_token =
        before == ' ' || before == '\n' || before == '\t' ||
        (depth > 0 && before != 0 && std::string_view("[{,:").find(before) != std::string_view::npos);
    if (c == '\n') {
      ++line;
      column = 0;
      comment = false;
    } else if (comment) {
    } else if (quote != 0) {
      if (quote == '"' && before == '\\') {
        before = 0;  // an escaped character, which may be a backslash
        continue;
      }
      if (c == quote) quote = 0;
    } else if ((c == '"' || c == '\'') && starts_token) {
      quote = c;
    } else if (c == '#' && (before == ' ' || before == '\n' || before == '\t')) {
      comment = true;
    } else if ((c == '[' || c == '{') && (depth > 0 || starts_token)) {
      if (++depth > kDepthMax) {
        diagnostics->Add(
            {"", {source, line, column}, absl::StrCat("nested too deeply: the limit is ", kDepthMax, " levels"), ""});
        return false;
      }
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
    before = c;
  }
  return true;
}

}  // namespace

const YamlNode* YamlNode::Find(std::string_view key) const {
  for (const YamlEntry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

YamlNode* YamlNode::Find(std::string_view key) {
  return const_cast<YamlNode*>(static_cast<const YamlNode*>(this)->Find(key));
}

std::string YamlNode::Describe() const {
  constexpr size_t kShownMax = 40;
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kScalar:
      break;
  }
  std::string shown = CutUtf8(scalar, kShownMax);
  if (shown.size() < scalar.size()) shown += "...";
  return quoted ? absl::StrCat("\"", shown, "\"") : absl::StrCat("'", shown, "'");
}

YamlNode ScalarNode(std::string scalar, Place at, bool quoted) {
  YamlNode node;
  node.kind = YamlNode::Kind::kScalar;
  node.scalar = std::move(scalar);
  node.at = std::move(at);
  node.quoted = quoted;
  return node;
}

std::optional<YamlNode> ReadYaml(std::string_view text, const std::string& source, Diagnostics* diagnostics) {
  if (!CheckBytes(text, source, diagnostics)) return std::nullopt;
  std::optional<YamlNode> plain = ReadPlainYaml(text, std::make_shared<const std::string>(source));
  return plain ? std::move(plain) : ReadAnyYaml(text, source, diagnostics);
}

std::optional<YamlNode> ReadAnyYaml(std::string_view text, const std::string& source, Diagnostics* diagnostics) {
  if (!CheckBytes(text, source, diagnostics) || !CheckFlowDepth(text, source, diagnostics)) return std::nullopt;
  const LineTable lines(text);
  TreeBuilder builder(lines, std::make_shared<const std::string>(source), diagnostics);
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const Refused& refused) {
    diagnostics->Add({"", refused.at.ToPosition(), refused.message, ""});
    return std::nullopt;
  } catch (const YAML::Exception& error) {
    diagnostics->Add({"", builder.At(error.mark).ToPosition(), absl::StrCat("not valid YAML: ", error.msg), ""});
    return std::nullopt;
  }
  if (!builder.done()) {
    diagnostics->Add({"", {source, 1, 1}, "the file is empty", ""});
    return std::nullopt;
  }
  return builder.TakeRoot();
}

}  // namespace vlm::spec
