// What people read of the schema: explain and the reference document.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "spec/schema.h"

namespace vlm::spec {
namespace {

std::string TypeText(const Field& field) {
  std::string text(TypeName(field.type));
  if (field.type == ValueType::kChoice || field.type == ValueType::kIntegerChoice) {
    text = absl::StrJoin(SplitChoices(field.choices), ", ",
                         [](std::string* out, std::string_view word) { out->append(word); });
  } else if (field.type == ValueType::kStage && !field.choices.empty()) {
    absl::StrAppend(&text, " of kind ", absl::StrReplaceAll(std::string(field.choices), {{"|", " or "}}));
  }
  const bool counts_entries = field.type == ValueType::kList || field.type == ValueType::kOpenMap;
  const bool counts_characters = field.type == ValueType::kString;
  const std::string range = RangeText(field);
  if (!range.empty()) {
    absl::StrAppend(&text, ", ", range, counts_entries ? " entries" : counts_characters ? " characters" : "");
  }
  return text;
}

std::string DefaultText(const Field& field) {
  if (field.type == ValueType::kNotYet) return "not supported yet";
  if (field.required) return "required";
  if (field.fallback.empty()) return "none";
  if (field.fallback[0] == '@') return absl::StrCat("that of ", std::string(field.fallback.substr(1)));
  if (field.fallback[0] == '^') return absl::StrCat("that of spec.", std::string(field.fallback.substr(1)));
  return std::string(field.fallback);
}

// "spec.stages[].train" of "spec.stages[].train.lr"
std::string_view ParentPath(std::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
}

std::string Escaped(std::string text) {
  return absl::StrReplaceAll(text, {{"|", "\\|"}, {"<", "&lt;"}, {">", "&gt;"}, {"*", "\\*"}});
}

void AppendRow(const Field& field, std::string* out) {
  std::string type = TypeText(field);
  if (!field.later.empty()) {
    absl::StrAppend(&type, " (not supported yet: ", absl::StrReplaceAll(std::string(field.later), {{"|", ", "}}), ")");
  }
  absl::StrAppend(out, "| `", std::string(field.path), "` | ", Escaped(type), " | ", Escaped(DefaultText(field)), " | ",
                  Escaped(KindNames(field.kinds)), " | ", field.semantic ? "yes" : "no", " | ",
                  Escaped(std::string(field.doc)), " |\n");
}

constexpr char kIntroduction[] = R"(# The job file

Generated from the schema (`spec/schema_table.cc`) by `job_file_reference`; a test compares. One YAML document
describes a job. Unknown and duplicate keys, wrong types, and keys and words of later versions are errors with line
and column. A file may have 1 MiB and 32 levels; anchors, aliases and tags are refused.

- `{stage: NAME}` names the output of another stage and makes it a parent; it need not stand in `needs`.
- `vlmctl render FILE` prints the file after composition, with every default and the origin of every value.
- `--set spec.stages[sft].train.lr=1e-5` changes one value; list entries go by name or by number from 0; an empty value
  removes the key.
- A training stage without `data.index` may name paths or `{stage, split}` in its mixture, and
  `data.tokenizer: {stage: NAME}` where the job has several tokenizers: composition inserts the index stage. Its
  `template`, `on_bad_picture` and `bad_pictures_max` may then stand in the training stage's `data`.
- "Result" says whether the field changes results. A finished stage is used again by a later job when its fields of
  that kind and its inputs are the same.
)";

}  // namespace

absl::StatusOr<std::string> Explain(std::string_view path) {
  const SchemaNode* node = FindSchemaNode(path);
  if (node == nullptr || node->rows.empty()) {
    std::vector<std::string> known;
    for (const Field& field : SchemaTable()) {
      known.push_back(absl::StrReplaceAll(std::string(field.path), {{"[]", ""}}));
    }
    const std::string nearest = Nearest(absl::StrReplaceAll(std::string(path), {{"[]", ""}}), known);
    return absl::NotFoundError(absl::StrCat("no such field: ", std::string(path),
                                            nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")));
  }
  std::string text;
  for (const Field* row : node->rows) {
    absl::StrAppend(&text, std::string(row->path), "\n  ", std::string(row->doc), "\n  type: ", TypeText(*row),
                    "\n  default: ", DefaultText(*row), "\n");
    if (!row->later.empty()) {
      absl::StrAppend(&text, "  not supported yet: ", absl::StrReplaceAll(std::string(row->later), {{"|", ", "}}),
                      "\n");
    }
    const std::string kinds = KindNames(row->kinds);
    if (!kinds.empty()) absl::StrAppend(&text, "  stage kinds: ", kinds, "\n");
    absl::StrAppend(&text, "  changes results: ", row->semantic ? "yes" : "no", "\n");
  }
  const SchemaNode* keys = node;
  if (const SchemaNode* element = node->Child("[]"); element != nullptr) keys = element;
  for (const SchemaNode& child : keys->children) {
    if (!child.rows.empty()) absl::StrAppend(&text, "    ", child.key, ": ", std::string(child.rows[0]->doc), "\n");
  }
  return text;
}

std::string ReferenceMarkdown() {
  std::string out = kIntroduction;
  constexpr char kHeader[] =
      "\n| Field | Type | Default | Stage kinds | Result | Meaning |\n|---|---|---|---|---|---|\n";
  absl::StrAppend(&out, "\n## The job\n", kHeader);
  for (const Field& field : SchemaTable()) {
    if (!field.path.starts_with("spec.stages[].") || ParentPath(field.path).empty()) AppendRow(field, &out);
  }
  absl::StrAppend(&out, "\n## A stage\n", kHeader);
  for (const Field& field : SchemaTable()) {
    if (field.path.starts_with("spec.stages[].")) AppendRow(field, &out);
  }
  return out;
}

}  // namespace vlm::spec
