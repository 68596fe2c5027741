// A model folder: reading one into a graph and a store, and the small files beside the weights.
#ifndef VLM_TRAINER_STAGES_MODEL_FOLDER_H_
#define VLM_TRAINER_STAGES_MODEL_FOLDER_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "checkpoint/format/safetensors_folder.h"
#include "data/chat_template.h"
#include "data/loader.h"
#include "data/tokenizer/tokenizer.h"
#include "model/graph.h"
#include "model/llava_config.h"
#include "train/checkpoint_state.h"

namespace vlm::trainer {

inline constexpr char kChatTemplateFile[] = "chat_template.jinja";

// Either a text model or a LLaVA.
struct ModelConfig {
  model::TextConfig text;
  std::optional<model::LlavaConfig> llava;  // its own text part is used, `text` is a copy of it

  absl::StatusOr<model::Graph> Build() const;
  std::string ToJson(std::string_view dtype) const;
};

// config.json of a folder. INVALID_ARGUMENT names the key that is not supported.
absl::StatusOr<ModelConfig> ReadModelConfig(FileSystem* files, const std::string& folder);

// The tensors of a folder under one index, as train/ reads them.
struct OpenedTensors {
  std::unique_ptr<checkpoint::SafetensorsFolder> folder;  // before `source`, which refers to it
  std::unique_ptr<train::TensorSource> source;
};
// `stem` is "model" or "optimizer". What the service wrote carries checksums, and is verified while read; a folder made
// by others does not.
absl::StatusOr<OpenedTensors> OpenTensors(FileSystem* files, const std::string& folder, const std::string& stem);

// Everything beside weights and optimizer state that makes the folder open in transformers: config.json,
// generation_config.json, tokenizer files, the chat template if training used one, and, for a LLaVA, processor files.
absl::StatusOr<std::map<std::string, std::string>> SideFiles(const ModelConfig& config,
                                                             const data::Tokenizer& tokenizer,
                                                             const data::ChatTemplate& chat_template,
                                                             const data::PixelOptions& pixels, std::string_view dtype);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_MODEL_FOLDER_H_
