#include "trainer/stages/model_folder.h"

#include <nlohmann/json.hpp>

#include "data/tokenizer/chat_files.h"
#include "model/llava.h"
#include "trainer/stages/pool_stages.h"

namespace vlm::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kConfigBytesMax = 1 << 20;

std::string GenerationConfig(const data::Tokenizer& tokenizer) {
  Json json = {{"do_sample", false}};
  if (const auto end = tokenizer.TokenId(data::kChatEndToken)) json["eos_token_id"] = *end;
  if (const auto pad = tokenizer.TokenId(data::kEndOfTextToken)) json["pad_token_id"] = *pad;
  return json.dump(2) + "\n";
}

std::string ImageProcessorConfig(const data::PixelOptions& pixels) {
  const Json json = {{"image_processor_type", "SiglipImageProcessor"},
                     {"do_convert_rgb", true},
                     {"do_resize", true},
                     {"size", {{"height", pixels.size}, {"width", pixels.size}}},
                     {"resample", 3},  // bicubic
                     {"do_rescale", true},
                     {"rescale_factor", pixels.normalisation.rescale},
                     {"do_normalize", true},
                     {"image_mean", pixels.normalisation.mean},
                     {"image_std", pixels.normalisation.std}};
  return json.dump(2) + "\n";
}

std::string ProcessorConfig(const model::VisionConfig& vision) {
  const Json json = {{"processor_class", "LlavaProcessor"},
                     {"image_token", data::kImageToken},
                     {"num_additional_image_tokens", 0},
                     {"patch_size", vision.patch_size},
                     {"vision_feature_select_strategy", "full"}};
  return json.dump(2) + "\n";
}

}  // namespace

absl::StatusOr<model::Graph> ModelConfig::Build() const {
  return llava.has_value() ? model::BuildLlava(*llava) : model::BuildQwen2(text);
}

std::string ModelConfig::ToJson(std::string_view dtype) const {
  return llava.has_value() ? model::ToJson(*llava, dtype) : model::ToJson(text, dtype);
}

absl::StatusOr<ModelConfig> ReadModelConfig(FileSystem* files, const std::string& folder) {
  VLM_ASSIGN_OR_RETURN(const std::string json, ReadFile(files, folder + "/config.json", kConfigBytesMax));
  VLM_ASSIGN_OR_RETURN(const std::string type, model::ModelType(json));
  ModelConfig config;
  if (type == "llava") {
    VLM_ASSIGN_OR_RETURN(config.llava, model::ParseLlavaConfig(json));
    config.text = config.llava->text;
  } else {
    VLM_ASSIGN_OR_RETURN(config.text, model::ParseTextConfig(json));
  }
  return config;
}

absl::StatusOr<std::unique_ptr<FolderSource>> FolderSource::Open(FileSystem* files, const std::string& folder) {
  std::unique_ptr<FolderSource> source(new FolderSource);
  // What the service wrote carries sums; a folder made by others does not.
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, files->List(folder));
  const bool sums = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.size() > 16 && name.compare(name.size() - 16, 16, ".safetensors.sum") == 0;
  });
  VLM_ASSIGN_OR_RETURN(source->folder_, checkpoint::SafetensorsFolder::Open(files, folder, {.require_sums = sums}));
  for (const auto& [name, location] : source->folder_->tensors()) source->by_name_[name] = location.file;
  return source;
}

absl::StatusOr<std::unique_ptr<FolderSource>> FolderSource::OpenFiles(FileSystem* files, const std::string& folder,
                                                                      const std::string& prefix) {
  std::unique_ptr<FolderSource> source(new FolderSource);
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, files->List(folder));
  constexpr std::string_view kEnding = ".safetensors";
  for (const std::string& name : names) {
    if (name.compare(0, prefix.size(), prefix) != 0 || name.size() < kEnding.size() ||
        name.compare(name.size() - kEnding.size(), kEnding.size(), kEnding) != 0) {
      continue;
    }
    VLM_ASSIGN_OR_RETURN(std::unique_ptr<checkpoint::SafetensorsReader> file,
                         checkpoint::SafetensorsReader::Open(files, folder + "/" + name));
    for (const checkpoint::TensorEntry& tensor : file->header().tensors) source->by_name_[tensor.name] = file.get();
    source->files_.push_back(std::move(file));
  }
  return source;
}

std::vector<train::TensorSource::Info> FolderSource::List() const {
  std::vector<Info> list;
  for (const auto& [name, file] : by_name_) {
    const checkpoint::TensorEntry& entry = *file->Find(name);
    list.push_back({name, std::string(checkpoint::DTypeName(entry.dtype)),
                    std::vector<int64_t>(entry.shape.begin(), entry.shape.end())});
  }
  return list;
}

absl::Status FolderSource::Read(const std::string& name, uint64_t offset, std::span<std::byte> out) {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return absl::NotFoundError("no such tensor in the folder: " + name);
  return found->second->Read(*found->second->Find(name), offset, out);
}

absl::StatusOr<std::map<std::string, std::string>> SideFiles(const ModelConfig& config,
                                                             const data::Tokenizer& tokenizer,
                                                             const data::PixelOptions& pixels, std::string_view dtype) {
  std::map<std::string, std::string> files;
  files["config.json"] = config.ToJson(dtype);
  files["generation_config.json"] = GenerationConfig(tokenizer);
  files[kTokenizerFile] = tokenizer.ToJson();
  VLM_ASSIGN_OR_RETURN(files["tokenizer_config.json"],
                       data::TokenizerConfigJson(tokenizer, config.text.max_position_embeddings));
  VLM_ASSIGN_OR_RETURN(files["special_tokens_map.json"], data::SpecialTokensMapJson(tokenizer));
  files["chat_template.jinja"] = std::string(data::ChatMlTemplateJinja());
  if (config.llava.has_value()) {
    files["preprocessor_config.json"] = ImageProcessorConfig(pixels);
    files["processor_config.json"] = ProcessorConfig(config.llava->vision);
  }
  return files;
}

}  // namespace vlm::trainer
