#include "trainer/stages/model_folder.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/tokenizer/chat_files.h"
#include "model/llava.h"
#include "train/checkpoint_files.h"
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

absl::StatusOr<OpenedTensors> OpenTensors(FileSystem* files, const std::string& folder, const std::string& stem) {
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, files->List(folder));
  const bool sums = std::any_of(names.begin(), names.end(),
                                [](const std::string& name) { return name.ends_with(".safetensors.sum"); });
  OpenedTensors opened;
  VLM_ASSIGN_OR_RETURN(opened.folder,
                       checkpoint::SafetensorsFolder::Open(files, folder, {.stem = stem, .require_sums = sums}));
  opened.source = train::NewFolderSource(opened.folder.get());
  return opened;
}

absl::StatusOr<std::map<std::string, std::string>> SideFiles(const ModelConfig& config,
                                                             const data::Tokenizer& tokenizer,
                                                             const data::ChatTemplate& chat_template,
                                                             const data::PixelOptions& pixels, std::string_view dtype) {
  std::map<std::string, std::string> files;
  files["config.json"] = config.ToJson(dtype);
  files["generation_config.json"] = GenerationConfig(tokenizer);
  files[kTokenizerFile] = tokenizer.ToJson();
  VLM_ASSIGN_OR_RETURN(files["tokenizer_config.json"],
                       data::TokenizerConfigJson(tokenizer, config.text.max_position_embeddings));
  VLM_ASSIGN_OR_RETURN(files["special_tokens_map.json"], data::SpecialTokensMapJson(tokenizer));
  if (chat_template.name() == "chatml") files[kChatTemplateFile] = std::string(data::ChatMlTemplateJinja());
  if (config.llava.has_value()) {
    files["preprocessor_config.json"] = ImageProcessorConfig(pixels);
    files["processor_config.json"] = ProcessorConfig(config.llava->vision);
  }
  return files;
}

}  // namespace vlm::trainer
