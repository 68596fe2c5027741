#include "data/manifest.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::data {
namespace {

using Json = nlohmann::json;

constexpr int kFormatVersion = 2;
constexpr uint64_t kManifestBytesMax = uint64_t{1} << 30;

absl::Status Wrong(const std::string& folder, const std::string& what) {
  return absl::InvalidArgumentError("manifest is inconsistent, index the data again: " + folder + ": " + what);
}

template <typename Record>
std::string TableBytes(const std::vector<Record>& records) {
  return std::string(reinterpret_cast<const char*>(records.data()), records.size() * sizeof(Record));
}

template <typename Record>
bool TableFromBytes(std::string_view bytes, std::vector<Record>* records) {
  if (bytes.size() % sizeof(Record) != 0) return false;
  records->resize(bytes.size() / sizeof(Record));
  if (!bytes.empty()) std::memcpy(records->data(), bytes.data(), bytes.size());  // of nothing it may be null
  return true;
}

// A number without fraction or sign that fits where it goes; by itself the library cuts and wraps in silence.
struct Whole {
  const Json& json;
  template <typename Integer>
  operator Integer() const {  // NOLINT(google-explicit-constructor)
    if (!json.is_number_unsigned() || !std::in_range<Integer>(json.get<uint64_t>())) {
      throw Json::other_error::create(501, "not a whole number that fits: " + json.dump(), &json);
    }
    return static_cast<Integer>(json.get<uint64_t>());
  }
};

// Source and file are those of the file index.
Json QuarantinedToJson(const std::vector<Quarantined>& quarantined) {
  Json list = Json::array();
  for (const Quarantined& one : quarantined) {
    list.push_back({one.record, one.member, one.offset, one.picture, one.action, one.reason});
  }
  return list;
}

std::vector<Quarantined> QuarantinedFromJson(const Json& list, const ManifestFile& file) {
  std::vector<Quarantined> quarantined;
  for (const Json& one : list) {
    quarantined.push_back(
        {file.source, file.path, Whole{one.at(0)}, one.at(1), Whole{one.at(2)}, one.at(3), one.at(4), one.at(5)});
  }
  return quarantined;
}

Json FileToJson(const ManifestFile& file) {
  return {{"path", file.path}, {"bytes", file.bytes}, {"digest", file.digest}, {"source", file.source}};
}

ManifestFile FileFromJson(const Json& json) {
  return {json.at("path"), Whole{json.at("bytes")}, json.at("digest"), json.at("source")};
}

// Throws nlohmann's exceptions, caught by ReadManifest: the one place where JSON meets the typed struct.
Manifest ManifestFromJson(const Json& json) {
  Manifest manifest;
  const Json& render = json.at("render");
  manifest.render = {render.at("tokenizer_digest"), render.at("chat_template"), Whole{render.at("image_size")},
                     Whole{render.at("image_tokens")}, Whole{render.at("context")}};
  for (const Json& file : json.at("files")) manifest.files.push_back(FileFromJson(file));
  for (const Json& source : json.at("sources")) {
    manifest.sources.push_back({source.at("name"), Whole{source.at("first")}, Whole{source.at("samples")},
                                Whole{source.at("rejected")}, Whole{source.at("pictures")},
                                Whole{source.at("bad_pictures")}});
  }
  return manifest;
}

absl::Status ReadRule(const Json& json, const std::string& folder, BadPictureRule* rule) {
  const std::optional<BadPicturePolicy> policy = BadPicturePolicyOf(json.at("policy").get<std::string>());
  if (!policy.has_value()) return Wrong(folder, "manifest.json: unknown policy for bad pictures");
  *rule = {*policy, json.at("share_max")};
  return absl::OkStatus();
}

absl::Status CheckVersion(const Json& json, const std::string& folder) {
  if (json.at("format") != "vlm-manifest") return Wrong(folder, "manifest.json is of another format");
  if (json.at("version") == kFormatVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("manifest is of another version, index the data again (version ",
                                                    json.at("version").dump(), ", this program reads version ",
                                                    kFormatVersion, "): ", folder));
}

absl::Status CheckTables(const Manifest& manifest, const std::string& folder) {
  const absl::Status lengths_differ = Wrong(folder, "sources and samples.bin differ in length");
  uint64_t samples = 0;
  for (const ManifestSource& source : manifest.sources) {
    if (source.first != samples) return Wrong(folder, "sources are not adjacent at " + source.name);
    if (source.samples > manifest.samples.size() - samples) return lengths_differ;  // the sum could wrap
    samples += source.samples;
  }
  if (samples != manifest.samples.size()) return lengths_differ;
  for (size_t i = 0; i < manifest.samples.size(); ++i) {
    const SampleRecord& record = manifest.samples[i];
    if (record.file >= manifest.files.size() || uint64_t{record.first_image} + record.images > manifest.images.size()) {
      return Wrong(folder, "sample " + std::to_string(i) + " points outside its tables");
    }
    if (record.tokens == 0 || record.tokens > static_cast<uint32_t>(manifest.render.context)) {
      return Wrong(folder, absl::StrCat("sample ", i, " has ", record.tokens, " tokens, in a context of ",
                                        manifest.render.context));
    }
  }
  return absl::OkStatus();
}

}  // namespace

const ManifestSource* Manifest::FindSource(std::string_view name) const {
  const auto found =
      std::find_if(sources.begin(), sources.end(), [&](const ManifestSource& source) { return source.name == name; });
  return found == sources.end() ? nullptr : &*found;
}

ManifestBytes EncodeManifest(const Manifest& manifest) {
  Json json = {{"format", "vlm-manifest"},
               {"version", kFormatVersion},
               {"render",
                {{"tokenizer_digest", manifest.render.tokenizer_digest},
                 {"chat_template", manifest.render.chat_template},
                 {"image_size", manifest.render.image_size},
                 {"image_tokens", manifest.render.image_tokens},
                 {"context", manifest.render.context}}},
               {"files", Json::array()},
               {"sources", Json::array()},
               {"samples", manifest.samples.size()},
               {"images", manifest.images.size()},
               {"bad_pictures",
                {{"policy", std::string(BadPicturePolicyName(manifest.bad_pictures.policy))},
                 {"share_max", manifest.bad_pictures.share_max}}}};
  for (const ManifestFile& file : manifest.files) json["files"].push_back(FileToJson(file));
  for (const ManifestSource& source : manifest.sources) {
    json["sources"].push_back({{"name", source.name},
                               {"first", source.first},
                               {"samples", source.samples},
                               {"rejected", source.rejected},
                               {"pictures", source.pictures},
                               {"bad_pictures", source.bad_pictures}});
  }
  return {json.dump(1) + "\n", TableBytes(manifest.samples), TableBytes(manifest.images),
          QuarantineLines(manifest.quarantined)};
}

absl::StatusOr<Manifest> ReadManifest(FileSystem* files, const std::string& folder) {
  VLM_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, folder + "/" + kManifestFile, kManifestBytesMax));
  VLM_ASSIGN_OR_RETURN(const std::string samples, ReadFile(files, folder + "/" + kSamplesFile, 32 * kManifestBytesMax));
  VLM_ASSIGN_OR_RETURN(const std::string images, ReadFile(files, folder + "/" + kImagesFile, 32 * kManifestBytesMax));
  Manifest manifest;
  try {
    const Json json = Json::parse(text);
    VLM_RETURN_IF_ERROR(CheckVersion(json, folder));
    manifest = ManifestFromJson(json);
    VLM_RETURN_IF_ERROR(ReadRule(json.at("bad_pictures"), folder, &manifest.bad_pictures));
  } catch (const Json::exception& error) {
    return Wrong(folder, std::string("manifest.json: ") + error.what());
  }
  if (!TableFromBytes(samples, &manifest.samples)) return Wrong(folder, "samples.bin is cut short");
  if (!TableFromBytes(images, &manifest.images)) return Wrong(folder, "images.bin is cut short");
  VLM_RETURN_IF_ERROR(CheckTables(manifest, folder));
  return manifest;
}

std::string EncodeFileIndexes(const std::vector<FileIndex>& indexes) {
  Json json = Json::array();
  for (const FileIndex& index : indexes) {
    json.push_back({{"file", FileToJson(index.file)},
                    {"ordinal", index.ordinal},
                    {"samples", Json::binary(std::vector<uint8_t>())},
                    {"images", Json::binary(std::vector<uint8_t>())},
                    {"rejected", index.rejected},
                    {"pictures", index.pictures},
                    {"bad_pictures", index.bad_pictures},
                    {"quarantined", QuarantinedToJson(index.quarantined)}});
    const std::string samples = TableBytes(index.samples), images = TableBytes(index.images);
    json.back()["samples"].get_binary().assign(samples.begin(), samples.end());
    json.back()["images"].get_binary().assign(images.begin(), images.end());
  }
  std::string bytes;
  Json::to_cbor(json, bytes);
  return bytes;
}

absl::StatusOr<std::vector<FileIndex>> DecodeFileIndexes(std::string_view bytes) {
  std::vector<FileIndex> indexes;
  try {
    for (const Json& entry : Json::from_cbor(bytes.begin(), bytes.end())) {
      FileIndex index;
      index.file = FileFromJson(entry.at("file"));
      index.ordinal = Whole{entry.at("ordinal")};
      const auto& samples = entry.at("samples").get_binary();
      const auto& images = entry.at("images").get_binary();
      if (!TableFromBytes(std::string_view(reinterpret_cast<const char*>(samples.data()), samples.size()),
                          &index.samples) ||
          !TableFromBytes(std::string_view(reinterpret_cast<const char*>(images.data()), images.size()),
                          &index.images)) {
        return absl::InvalidArgumentError("file index has a table cut short: " + index.file.path);
      }
      index.rejected = Whole{entry.at("rejected")};
      index.pictures = Whole{entry.at("pictures")};
      index.bad_pictures = Whole{entry.at("bad_pictures")};
      index.quarantined = QuarantinedFromJson(entry.at("quarantined"), index.file);
      indexes.push_back(std::move(index));
    }
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(std::string("file index does not parse: ") + error.what());
  }
  return indexes;
}

Manifest MergeIndexes(RenderSettings render, const std::vector<std::string>& sources, std::vector<FileIndex> indexes) {
  std::sort(indexes.begin(), indexes.end(),
            [](const FileIndex& a, const FileIndex& b) { return a.ordinal < b.ordinal; });
  Manifest manifest;
  manifest.render = std::move(render);
  for (const std::string& source : sources) {
    ManifestSource merged{source, manifest.samples.size()};
    QuarantineList quarantined(Manifest::kQuarantinedMax / sources.size());
    for (const FileIndex& index : indexes) {
      if (index.file.source != source) continue;
      const uint32_t file = static_cast<uint32_t>(manifest.files.size());
      const uint32_t first_image = static_cast<uint32_t>(manifest.images.size());
      manifest.files.push_back(index.file);
      for (SampleRecord record : index.samples) {
        record.file = file;
        record.first_image += first_image;
        manifest.samples.push_back(record);
      }
      manifest.images.insert(manifest.images.end(), index.images.begin(), index.images.end());
      merged.rejected += index.rejected;
      merged.pictures += index.pictures;
      merged.bad_pictures += index.bad_pictures;
      for (const Quarantined& one : index.quarantined) quarantined.Add(one);
    }
    manifest.quarantined.insert(manifest.quarantined.end(), quarantined.entries().begin(), quarantined.entries().end());
    merged.samples = manifest.samples.size() - merged.first;
    manifest.sources.push_back(merged);
  }
  return manifest;
}

}  // namespace vlm::data
