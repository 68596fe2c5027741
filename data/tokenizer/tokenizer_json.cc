// tokenizer.json in and out: the format of Hugging Face `tokenizers`, version "1.0".
#include <algorithm>
#include <initializer_list>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "data/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace vlm::data {
namespace {

using Json = nlohmann::json;

absl::Status Bad(std::string message) { return absl::InvalidArgumentError("tokenizer.json: " + std::move(message)); }

std::string Shown(const Json& value) {
  constexpr size_t kShownBytesMax = 120;
  std::string text = value.dump(-1, ' ', true);  // escaped, so a cut leaves valid text
  return text.size() <= kShownBytesMax ? text : text.substr(0, kShownBytesMax) + "...";
}

// Nesting is bounded before the parser sees it. Brackets inside strings do not count.
absl::Status CheckLimits(std::string_view text) {
  if (text.size() > kTokenizerJsonBytesMax) {
    return absl::ResourceExhaustedError("tokenizer.json: larger than " + std::to_string(kTokenizerJsonBytesMax) +
                                        " bytes: " + std::to_string(text.size()));
  }
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char byte = text[i];
    if (in_string) {
      if (byte == '\\') ++i;
      if (byte == '"') in_string = false;
    } else if (byte == '"') {
      in_string = true;
    } else if (byte == '{' || byte == '[') {
      if (++depth > kTokenizerJsonDepthMax) {
        return absl::ResourceExhaustedError("tokenizer.json: nested deeper than " +
                                            std::to_string(kTokenizerJsonDepthMax) + " at byte " + std::to_string(i));
      }
    } else if (byte == '}' || byte == ']') {
      --depth;
    }
  }
  return absl::OkStatus();
}

// Parses, refusing duplicate keys, of which the parser would silently keep one.
absl::StatusOr<Json> Parse(std::string_view text) {
  VLM_RETURN_IF_ERROR(CheckLimits(text));
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      if (duplicate.empty()) duplicate = parsed.get<std::string>();
    }
    return true;
  };
  try {
    Json json = Json::parse(text, watch);
    if (!duplicate.empty()) return Bad("key is given twice: " + duplicate);
    if (!json.is_object()) return Bad("not an object");
    return json;
  } catch (const Json::exception& error) {
    return Bad(std::string("not JSON: ") + error.what());
  }
}

bool IsNullOrAbsent(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null();
}

absl::Status CheckKeys(const Json& object, const std::string& place, std::initializer_list<std::string_view> known) {
  if (!object.is_object()) return Bad("must be an object: " + place);
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Bad("field is not known: " + place + "." + key);
    }
  }
  return absl::OkStatus();
}

// `key` must hold `value` or, where that is allowed, be absent.
absl::Status CheckIs(const Json& object, const std::string& place, const char* key, const Json& value,
                     bool may_be_absent) {
  const auto found = object.find(key);
  if (found == object.end() ? may_be_absent : *found == value) return absl::OkStatus();
  return Bad("field must be " + value.dump() + ": " + place + "." + key + " is " +
             (found == object.end() ? "absent" : Shown(*found)));
}

absl::StatusOr<bool> ReadBool(const Json& object, const std::string& place, const char* key, bool absent) {
  const auto found = object.find(key);
  if (found == object.end()) return absent;
  if (!found->is_boolean()) return Bad("must be true or false: " + place + "." + key);
  return found->get<bool>();
}

absl::Status ReadVocabulary(const Json& model, BytePairModel* out) {
  const auto vocab = model.find("vocab");
  if (vocab == model.end() || !vocab->is_object()) return Bad("must be an object: model.vocab");
  if (vocab->size() > static_cast<size_t>(kVocabularyEntriesMax)) {
    return Bad("more entries than " + std::to_string(kVocabularyEntriesMax) + ": model.vocab");
  }
  out->vocabulary.resize(vocab->size());
  std::vector<bool> taken(vocab->size(), false);
  for (const auto& [entry, id] : vocab->items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocab->size()) {
      return Bad("ids must be 0 to the number of entries less 1: model.vocab[" + entry + "] is " + Shown(id));
    }
    const size_t index = id.get<size_t>();
    if (taken[index]) return Bad("id is given twice: model.vocab[" + entry + "] is " + Shown(id));
    taken[index] = true;
    out->vocabulary[index] = entry;
  }
  return absl::OkStatus();
}

// Each merge is a pair of strings or, in older files, one string "left right".
absl::Status ReadMerges(const Json& model, BytePairModel* out) {
  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array()) return Bad("must be an array: model.merges");
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < out->vocabulary.size(); ++id) ids[out->vocabulary[id]] = static_cast<int32_t>(id);
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    const Json& merge = (*merges)[rank];
    const std::string place = "model.merges[" + std::to_string(rank) + "]";
    std::string left, right;
    if (merge.is_string()) {
      const std::string& both = merge.get_ref<const std::string&>();
      const size_t space = both.find(' ');
      if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) {
        return Bad("must be two entries with one space between: " + place + " is " + Shown(merge));
      }
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      return Bad("must be a pair of strings: " + place + " is " + Shown(merge));
    }
    const auto left_id = ids.find(left);
    const auto right_id = ids.find(right);
    if (left_id == ids.end() || right_id == ids.end()) {
      return Bad("part is not an entry of model.vocab: " + place + " is " + Shown(merge));
    }
    out->merges.push_back({left_id->second, right_id->second});
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& root, BytePairModel* out) {
  const auto found = root.find("model");
  if (found == root.end()) return Bad("field is missing: model");
  const Json& model = *found;
  VLM_RETURN_IF_ERROR(CheckKeys(model, "model",
                                {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                 "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  VLM_RETURN_IF_ERROR(CheckIs(model, "model", "type", "BPE", true));
  for (const char* key : {"dropout", "unk_token"}) {
    VLM_RETURN_IF_ERROR(CheckIs(model, "model", key, nullptr, true));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.contains(key) && model[key] == "") continue;  // an empty affix is none
    VLM_RETURN_IF_ERROR(CheckIs(model, "model", key, nullptr, true));
  }
  // Without an unknown token there is nothing to fuse: either value is honoured.
  VLM_RETURN_IF_ERROR(ReadBool(model, "model", "fuse_unk", false).status());
  VLM_RETURN_IF_ERROR(CheckIs(model, "model", "byte_fallback", false, true));
  VLM_ASSIGN_OR_RETURN(out->ignore_merges, ReadBool(model, "model", "ignore_merges", false));
  VLM_RETURN_IF_ERROR(ReadVocabulary(model, out));
  return ReadMerges(model, out);
}

// A ByteLevel step of any kind. trim_offsets only moves offsets, which are not kept here.
absl::Status CheckByteLevel(const Json& step, const std::string& place) {
  VLM_RETURN_IF_ERROR(CheckKeys(step, place, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  VLM_RETURN_IF_ERROR(CheckIs(step, place, "type", "ByteLevel", false));
  VLM_RETURN_IF_ERROR(ReadBool(step, place, "trim_offsets", true).status());
  return ReadBool(step, place, "use_regex", true).status();
}

// ByteLevel with its own pattern, or a sequence of one Split by a known pattern and ByteLevel without.
absl::Status ReadPreTokenizer(const Json& root, BytePairModel* out) {
  if (IsNullOrAbsent(root, "pre_tokenizer")) return Bad("must be ByteLevel or a Sequence: pre_tokenizer is null");
  const Json& outer = root["pre_tokenizer"];
  const std::string place = "pre_tokenizer";
  if (!outer.is_object() || outer.value("type", Json()) != "Sequence") {
    VLM_RETURN_IF_ERROR(CheckByteLevel(outer, place));
    VLM_RETURN_IF_ERROR(CheckIs(outer, place, "add_prefix_space", false, false));
    VLM_RETURN_IF_ERROR(CheckIs(outer, place, "use_regex", true, true));
    out->pattern = SplitPattern::kGpt2;
    return absl::OkStatus();
  }
  VLM_RETURN_IF_ERROR(CheckKeys(outer, place, {"type", "pretokenizers"}));
  if (!outer.contains("pretokenizers") || !outer["pretokenizers"].is_array() || outer["pretokenizers"].size() != 2) {
    return Bad("must be a Split and a ByteLevel: pre_tokenizer.pretokenizers");
  }
  const Json& split = outer["pretokenizers"][0];
  const std::string split_place = "pre_tokenizer.pretokenizers[0]";
  VLM_RETURN_IF_ERROR(CheckKeys(split, split_place, {"type", "pattern", "behavior", "invert"}));
  VLM_RETURN_IF_ERROR(CheckIs(split, split_place, "type", "Split", false));
  VLM_RETURN_IF_ERROR(CheckIs(split, split_place, "behavior", "Isolated", false));
  VLM_RETURN_IF_ERROR(CheckIs(split, split_place, "invert", false, true));
  const Json pattern = split.value("pattern", Json());
  VLM_RETURN_IF_ERROR(CheckKeys(pattern, split_place + ".pattern", {"Regex"}));
  if (!pattern.contains("Regex") || !pattern["Regex"].is_string()) {
    return Bad("must be a string: " + split_place + ".pattern.Regex");
  }
  const std::optional<SplitPattern> known = PatternFromRegex(pattern["Regex"].get_ref<const std::string&>());
  if (!known.has_value()) {
    return Bad("not one of the known expressions (gpt2, gpt4, qwen2): " + split_place + ".pattern.Regex is " +
               Shown(pattern["Regex"]));
  }
  out->pattern = *known;
  const Json& bytes = outer["pretokenizers"][1];
  const std::string bytes_place = "pre_tokenizer.pretokenizers[1]";
  VLM_RETURN_IF_ERROR(CheckByteLevel(bytes, bytes_place));
  VLM_RETURN_IF_ERROR(CheckIs(bytes, bytes_place, "add_prefix_space", false, false));
  return CheckIs(bytes, bytes_place, "use_regex", false, false);
}

absl::Status ReadAddedTokens(const Json& root, BytePairModel* out) {
  if (IsNullOrAbsent(root, "added_tokens")) return absl::OkStatus();
  const Json& tokens = root["added_tokens"];
  if (!tokens.is_array()) return Bad("must be an array: added_tokens");
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Json& token = tokens[i];
    const std::string place = "added_tokens[" + std::to_string(i) + "]";
    VLM_RETURN_IF_ERROR(
        CheckKeys(token, place, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      VLM_RETURN_IF_ERROR(CheckIs(token, place, key, false, true));
    }
    const Json id = token.value("id", Json());
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(kVocabularyEntriesMax)) {
      return Bad("must be a number below " + std::to_string(kVocabularyEntriesMax) + ": " + place + ".id");
    }
    const Json content = token.value("content", Json());
    if (!content.is_string()) return Bad("must be a string: " + place + ".content");
    AddedToken added = {id.get<int32_t>(), content.get<std::string>()};
    VLM_ASSIGN_OR_RETURN(added.special, ReadBool(token, place, "special", false));
    VLM_ASSIGN_OR_RETURN(added.normalized, ReadBool(token, place, "normalized", !added.special));
    out->added_tokens.push_back(std::move(added));
  }
  std::stable_sort(out->added_tokens.begin(), out->added_tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return absl::OkStatus();
}

absl::Status CheckRoot(const Json& root) {
  VLM_RETURN_IF_ERROR(CheckKeys(root, "tokenizer",
                                {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                                 "post_processor", "decoder", "model"}));
  VLM_RETURN_IF_ERROR(CheckIs(root, "tokenizer", "version", "1.0", false));
  for (const char* key : {"truncation", "padding", "normalizer"}) {
    VLM_RETURN_IF_ERROR(CheckIs(root, "tokenizer", key, nullptr, true));
  }
  // As a post-processor ByteLevel changes offsets only.
  if (!IsNullOrAbsent(root, "post_processor")) {
    VLM_RETURN_IF_ERROR(CheckByteLevel(root["post_processor"], "post_processor"));
    VLM_RETURN_IF_ERROR(ReadBool(root["post_processor"], "post_processor", "add_prefix_space", true).status());
  }
  if (IsNullOrAbsent(root, "decoder")) return Bad("must be ByteLevel: decoder is null");
  VLM_RETURN_IF_ERROR(CheckByteLevel(root["decoder"], "decoder"));
  return ReadBool(root["decoder"], "decoder", "add_prefix_space", true).status();
}

std::string Quoted(const std::string& text) { return Json(text).dump(); }

std::string PreTokenizerJson(SplitPattern pattern) {
  const std::string bytes = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": )";
  if (pattern == SplitPattern::kGpt2) return bytes + "true}";
  return R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": )" +
         Quoted(std::string(PatternRegex(pattern))) + R"(}, "behavior": "Isolated", "invert": false}, )" + bytes +
         "false}]}";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json) {
  VLM_ASSIGN_OR_RETURN(const Json root, Parse(tokenizer_json));
  BytePairModel model;
  VLM_RETURN_IF_ERROR(CheckRoot(root));
  VLM_RETURN_IF_ERROR(ReadPreTokenizer(root, &model));
  VLM_RETURN_IF_ERROR(ReadModel(root, &model));
  VLM_RETURN_IF_ERROR(ReadAddedTokens(root, &model));
  return Create(std::move(model));
}

// Written line by line: an ordered JSON object would look through all entries for each one added.
std::string Tokenizer::ToJson() const {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  for (const AddedToken& token : model_.added_tokens) {
    out += std::string(&token == model_.added_tokens.data() ? "" : ",") + "\n    {\"id\": " + std::to_string(token.id) +
           ", \"content\": " + Quoted(token.content) +
           ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": " + flag(token.normalized) +
           ", \"special\": " + flag(token.special) + "}";
  }
  const std::string bytes = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, )"
                            R"("use_regex": false})";
  out += "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": " + PreTokenizerJson(model_.pattern) +
         ",\n  \"post_processor\": " + bytes + ",\n  \"decoder\": " + bytes +
         ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
         "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
         "    \"byte_fallback\": false,\n    \"ignore_merges\": " +
         flag(model_.ignore_merges) + ",\n    \"vocab\": {";
  for (size_t id = 0; id < model_.vocabulary.size(); ++id) {
    out += (id == 0 ? "\n      " : ",\n      ") + Quoted(model_.vocabulary[id]) + ": " + std::to_string(id);
  }
  out += "\n    },\n    \"merges\": [";
  for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
    const BytePairMerge& merge = model_.merges[rank];
    out += (rank == 0 ? "\n      [" : ",\n      [") + Quoted(model_.vocabulary[merge.left]) + ", " +
           Quoted(model_.vocabulary[merge.right]) + "]";
  }
  out += "\n    ]\n  }\n}\n";
  return out;
}

}  // namespace vlm::data
