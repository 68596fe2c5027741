#include "data/manifest.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

namespace vlm::data {
namespace {

using Json = nlohmann::json;

constexpr int kFormatVersion = 1;
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
  std::memcpy(records->data(), bytes.data(), bytes.size());
  return true;
}

Json RejectedToJson(const std::vector<Rejected>& rejected) {
  Json list = Json::array();
  for (const Rejected& one : rejected) list.push_back({{"file", one.file}, {"line", one.line}, {"reason", one.reason}});
  return list;
}

std::vector<Rejected> RejectedFromJson(const Json& list) {
  std::vector<Rejected> rejected;
  for (const Json& one : list) rejected.push_back({one.at("file"), one.at("line"), one.at("reason")});
  return rejected;
}

Json FileToJson(const ManifestFile& file) {
  return {{"path", file.path}, {"bytes", file.bytes}, {"digest", file.digest}, {"source", file.source}};
}

ManifestFile FileFromJson(const Json& json) {
  return {json.at("path"), json.at("bytes"), json.at("digest"), json.at("source")};
}

// Throws nlohmann's exceptions, caught by ReadManifest: the one place where JSON meets the typed struct.
Manifest ManifestFromJson(const Json& json) {
  Manifest manifest;
  const Json& render = json.at("render");
  manifest.render = {render.at("tokenizer_digest"), render.at("chat_template"), render.at("image_size"),
                     render.at("image_tokens"), render.at("context")};
  for (const Json& file : json.at("files")) manifest.files.push_back(FileFromJson(file));
  for (const Json& source : json.at("sources")) {
    manifest.sources.push_back({source.at("name"), source.at("first"), source.at("samples")});
  }
  manifest.rejected_count = json.at("rejected_count");
  manifest.rejected = RejectedFromJson(json.at("rejected"));
  return manifest;
}

absl::Status CheckTables(const Manifest& manifest, const std::string& folder) {
  uint64_t samples = 0;
  for (const ManifestSource& source : manifest.sources) {
    if (source.first != samples) return Wrong(folder, "sources are not adjacent at " + source.name);
    samples += source.samples;
  }
  if (samples != manifest.samples.size()) return Wrong(folder, "sources and samples.bin differ in length");
  for (size_t i = 0; i < manifest.samples.size(); ++i) {
    const SampleRecord& record = manifest.samples[i];
    if (record.file >= manifest.files.size() || uint64_t{record.first_image} + record.images > manifest.images.size() ||
        record.tokens == 0) {
      return Wrong(folder, "sample " + std::to_string(i) + " points outside its tables");
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
               {"rejected_count", manifest.rejected_count},
               {"rejected", RejectedToJson(manifest.rejected)}};
  for (const ManifestFile& file : manifest.files) json["files"].push_back(FileToJson(file));
  for (const ManifestSource& source : manifest.sources) {
    json["sources"].push_back({{"name", source.name}, {"first", source.first}, {"samples", source.samples}});
  }
  return {json.dump(1) + "\n", TableBytes(manifest.samples), TableBytes(manifest.images)};
}

absl::StatusOr<Manifest> ReadManifest(FileSystem* files, const std::string& folder) {
  VLM_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, folder + "/" + kManifestFile, kManifestBytesMax));
  VLM_ASSIGN_OR_RETURN(const std::string samples, ReadFile(files, folder + "/" + kSamplesFile, 32 * kManifestBytesMax));
  VLM_ASSIGN_OR_RETURN(const std::string images, ReadFile(files, folder + "/" + kImagesFile, 32 * kManifestBytesMax));
  Manifest manifest;
  try {
    const Json json = Json::parse(text);
    if (json.at("format") != "vlm-manifest" || json.at("version") != kFormatVersion) {
      return Wrong(folder, "manifest.json is of another format or version");
    }
    manifest = ManifestFromJson(json);
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
                    {"rejected_count", index.rejected_count},
                    {"rejected", RejectedToJson(index.rejected)}});
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
      index.ordinal = entry.at("ordinal");
      const auto& samples = entry.at("samples").get_binary();
      const auto& images = entry.at("images").get_binary();
      if (!TableFromBytes(std::string_view(reinterpret_cast<const char*>(samples.data()), samples.size()),
                          &index.samples) ||
          !TableFromBytes(std::string_view(reinterpret_cast<const char*>(images.data()), images.size()),
                          &index.images)) {
        return absl::InvalidArgumentError("file index has a table cut short: " + index.file.path);
      }
      index.rejected_count = entry.at("rejected_count");
      index.rejected = RejectedFromJson(entry.at("rejected"));
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
    ManifestSource merged{source, manifest.samples.size(), 0};
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
      manifest.rejected_count += index.rejected_count;
      for (const Rejected& one : index.rejected) {
        if (manifest.rejected.size() < Manifest::kRejectedKept) manifest.rejected.push_back(one);
      }
    }
    merged.samples = manifest.samples.size() - merged.first;
    manifest.sources.push_back(merged);
  }
  return manifest;
}

}  // namespace vlm::data
