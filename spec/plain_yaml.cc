#include "spec/plain_yaml.h"

#include <algorithm>
#include <array>
#include <utility>

#include "spec/parse.h"

namespace vlm::spec {
namespace {

constexpr size_t kEntriesMax = 64;  // of a map: equal keys are looked for pair by pair
constexpr size_t kEntriesExpected = 8;
constexpr size_t kKeyBytesMax = 128;  // YAML's own limit is 1,024 characters

// Classes of bytes, by table: this is the innermost loop.
enum : uint8_t { kWordStart = 1, kWord = 2, kPlainStart = 4, kPlain = 8 };

constexpr std::array<uint8_t, 256> MakeClasses() {
  std::array<uint8_t, 256> classes{};
  for (int c = 0; c < 256; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    const bool inner = letter || c == '_' || c == '-' || c == '.' || c == '/';
    if (letter || c == '_') classes[c] |= kWordStart;
    if (inner) classes[c] |= kWord;
    if (letter || c == '.' || c == '/' || c == '-') classes[c] |= kPlainStart;
    if (inner || c == ' ' || c == '*' || c == '+') classes[c] |= kPlain;
  }
  return classes;
}
constexpr std::array<uint8_t, 256> kClasses = MakeClasses();

bool Is(char c, uint8_t of) { return (kClasses[static_cast<unsigned char>(c)] & of) != 0; }

// Words that YAML reads as nothing, but for "null", which is read here too.
bool IsOtherNull(std::string_view word) { return word == "Null" || word == "NULL"; }

class PlainReader {
 public:
  PlainReader(std::string_view text, const std::shared_ptr<const std::string>& source) : text_(text), source_(source) {}

  std::optional<YamlNode> Document() {
    YamlNode root;
    if (!StartLine() || indent_ != 0 || !Block(0, 1, &root) || !ended_) return std::nullopt;
    return root;
  }

 private:
  // All of these answer false where the text leaves the plain form.

  // The lines from `at_` on: stands at the first content, or `ended_`.
  bool StartLine() {
    while (at_ < text_.size()) {
      line_start_ = at_;
      ++line_;
      while (at_ < text_.size() && text_[at_] == ' ') ++at_;
      if (at_ < text_.size() && text_[at_] != '\n' && text_[at_] != '#') {
        indent_ = Column();
        return true;
      }
      SkipLine();
    }
    ended_ = true;
    return true;
  }
  void SkipLine() {
    const size_t end = text_.find('\n', at_);
    at_ = end == std::string_view::npos ? text_.size() : end + 1;
  }
  // What may follow a value: nothing, or a comment after a space.
  bool EndLine() {
    const size_t value_end = at_;
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (at_ < text_.size() && text_[at_] != '\n' && (text_[at_] != '#' || at_ == value_end)) return false;
    SkipLine();
    return StartLine();
  }

  size_t Column() const { return at_ - line_start_; }  // in bytes, from 0
  char Byte(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\n'; }
  Place Here() const {
    const std::string_view before = text_.substr(line_start_, at_ - line_start_);
    const auto characters = std::count_if(before.begin(), before.end(), [](char c) { return (c & 0xC0) != 0x80; });
    return {source_, line_, static_cast<int32_t>(characters) + 1};
  }

  // A map or list whose first line the reader is in, at column `indent`.
  bool Block(size_t indent, int depth, YamlNode* out) {
    if (depth > kDepthMax) return false;
    out->at = Here();
    return Byte() == '-' ? List(indent, depth, out) : Map(indent, depth, out);
  }

  // Bytes of "key:" at this place, without the colon; 0 when there is no key.
  size_t KeyLength() const {
    if (!Is(Byte(), kWordStart)) return 0;
    size_t length = 1;
    while (length < kKeyBytesMax && Is(Byte(length), kWord)) ++length;
    return Byte(length) == ':' && (Byte(length + 1) == ' ' || Byte(length + 1) == '\n') ? length : 0;
  }

  bool Map(size_t indent, int depth, YamlNode* out) {
    out->kind = YamlNode::Kind::kMap;
    out->entries.reserve(kEntriesExpected);
    do {
      const size_t length = KeyLength();
      const std::string_view key = text_.substr(at_, length);
      if (length == 0 || key == "null" || IsOtherNull(key) || out->entries.size() == kEntriesMax ||
          out->Find(key) != nullptr) {
        return false;
      }
      YamlEntry& entry = out->entries.emplace_back();
      entry.key = key;
      entry.at = Here();
      at_ += length + 1;
      if (!MapValue(indent, depth, &entry)) return false;
    } while (!ended_ && indent_ == indent);
    return ended_ || indent_ < indent;
  }

  bool MapValue(size_t indent, int depth, YamlEntry* entry) {
    const size_t key_end = at_;
    while (Byte() == ' ') ++at_;
    if (Byte() == '\n' || (Byte() == '#' && at_ > key_end)) {
      SkipLine();
      if (!StartLine()) return false;
      if (!ended_ && indent_ > indent) return Block(indent_, depth + 1, &entry->value);
      if (!ended_ && Byte() == '-') return false;  // a list may stand as far left as its key
      entry->value.at = entry->at;
      return true;
    }
    if (!Inline(&entry->value, depth) || !EndLine()) return false;
    if (entry->value.is_null()) entry->value.at = entry->at;
    return ended_ || indent_ <= indent;
  }

  bool List(size_t indent, int depth, YamlNode* out) {
    out->kind = YamlNode::Kind::kList;
    do {
      if (Byte() != '-' || Byte(1) != ' ') return false;
      ++at_;
      while (Byte() == ' ') ++at_;
      YamlNode& item = out->items.emplace_back();
      if (KeyLength() > 0) {
        if (depth == kDepthMax) return false;
        item.at = Here();
        if (!Map(Column(), depth + 1, &item)) return false;
      } else if (!Inline(&item, depth) || !EndLine()) {
        return false;
      }
    } while (!ended_ && indent_ == indent);
    return ended_ || indent_ < indent;
  }

  bool Inline(YamlNode* out, int depth) {
    out->at = Here();
    if (Byte() != '[' && Byte() != '{') return Scalar(out);
    if (depth == kDepthMax) return false;
    const bool list = Byte() == '[';
    out->kind = list ? YamlNode::Kind::kList : YamlNode::Kind::kMap;
    ++at_;
    if (Byte() == (list ? ']' : '}')) {
      ++at_;
      return true;
    }
    return list && FlowItems(out);
  }

  bool FlowItems(YamlNode* out) {
    while (true) {
      YamlNode& item = out->items.emplace_back();
      item.at = Here();
      if (!Scalar(&item)) return false;
      if (Byte() == ']') {
        ++at_;
        return true;
      }
      if (Byte() != ',' || Byte(1) != ' ') return false;
      at_ += 2;
    }
  }

  bool Scalar(YamlNode* out) {
    if (Byte() == '"') return Quoted(out);
    if (!Is(Byte(), kPlainStart)) return false;
    size_t end = at_ + 1;
    while (end < text_.size() && Is(text_[end], kPlain)) ++end;
    const char stop = end < text_.size() ? text_[end] : '\n';
    while (text_[end - 1] == ' ') --end;
    const bool comment = stop == '#' && end < text_.size() && text_[end] == ' ';
    if (stop != '\n' && stop != ',' && stop != ']' && !comment) return false;
    const std::string_view word = text_.substr(at_, end - at_);
    if (word == "-" || word.starts_with("- ") || word.starts_with("---") || word.starts_with("...")) return false;
    if (IsOtherNull(word)) return false;
    at_ = end;
    if (word == "null") return true;
    out->kind = YamlNode::Kind::kScalar;
    out->scalar = word;
    return true;
  }

  bool Quoted(YamlNode* out) {
    out->kind = YamlNode::Kind::kScalar;
    out->quoted = true;
    for (++at_; Byte() != '"'; ++at_) {
      if (Byte() == '\\') {
        ++at_;
        if (Byte() != '"' && Byte() != '\\') return false;
      } else if (Byte() == '\n' || Byte() == '\t') {
        return false;
      }
      out->scalar += Byte();
    }
    ++at_;
    return true;
  }

  const std::string_view text_;
  const std::shared_ptr<const std::string>& source_;
  size_t at_ = 0, line_start_ = 0, indent_ = 0;
  int32_t line_ = 0;
  bool ended_ = false;
};

}  // namespace

std::optional<YamlNode> ReadPlainYaml(std::string_view text, const std::shared_ptr<const std::string>& source) {
  if (text.find('\r') != std::string_view::npos) return std::nullopt;  // yaml-cpp ends lines there
  return PlainReader(text, source).Document();
}

}  // namespace vlm::spec
