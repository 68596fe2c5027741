#include "model/llava_config.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

namespace vlm::model {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

absl::Status Unsupported(const std::string& key, const std::string& rule, const std::string& found) {
  return absl::InvalidArgumentError("unsupported model configuration: " + rule + "; key " + key +
                                    (found.empty() ? "" : ", found " + found));
}

absl::Status CheckPositive(const std::map<std::string, int64_t>& sizes) {
  for (const auto& [key, size] : sizes) {
    if (size <= 0) return Unsupported(key, "must be above 0", std::to_string(size));
  }
  return absl::OkStatus();
}

// One JSON object; remembers which keys were read, so that Finish can name one that was not.
class Reader {
 public:
  Reader(const Json& json, std::string path) : json_(json), path_(std::move(path)) {}

  std::string Path(const std::string& key) const { return path_ + key; }

  const Json* Find(const std::string& key) {
    read_.insert(key);
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }

  absl::Status Integer(const std::string& key, int64_t* value, bool required = false) {
    const Json* found = Find(key);
    if (found == nullptr) return required ? Missing(key) : absl::OkStatus();
    if (!found->is_number_integer()) return Unsupported(Path(key), "must be an integer", found->dump());
    *value = found->get<int64_t>();
    return absl::OkStatus();
  }

  absl::Status OptionalInteger(const std::string& key, std::optional<int64_t>* value) {
    if (Find(key) == nullptr) return absl::OkStatus();
    int64_t number = 0;
    VLM_RETURN_IF_ERROR(Integer(key, &number));
    *value = number;
    return absl::OkStatus();
  }

  absl::Status Number(const std::string& key, double* value) {
    const Json* found = Find(key);
    if (found == nullptr) return absl::OkStatus();
    if (!found->is_number()) return Unsupported(Path(key), "must be a number", found->dump());
    *value = found->get<double>();
    return absl::OkStatus();
  }

  absl::Status Boolean(const std::string& key, bool* value) {
    const Json* found = Find(key);
    if (found == nullptr) return absl::OkStatus();
    if (!found->is_boolean()) return Unsupported(Path(key), "must be true or false", found->dump());
    *value = found->get<bool>();
    return absl::OkStatus();
  }

  // A key with one supported value; absent or null means that value, unless `required`.
  absl::Status Only(const std::string& key, const Json& supported, bool required = false) {
    const Json* found = Find(key);
    if (found == nullptr) return required ? Missing(key) : absl::OkStatus();
    if (*found != supported) return Unsupported(Path(key), "only " + supported.dump() + " is supported", found->dump());
    return absl::OkStatus();
  }

  // Keys without influence on the function computed.
  void Ignore(const std::vector<std::string>& keys) {
    for (const std::string& key : keys) read_.insert(key);
  }

  absl::Status Finish() const {
    for (const auto& [key, value] : json_.items()) {
      if (read_.count(key) == 0) return Unsupported(Path(key), "the key is not known", value.dump());
    }
    return absl::OkStatus();
  }

  absl::Status Missing(const std::string& key) const { return Unsupported(Path(key), "the key is required", ""); }

 private:
  const Json& json_;
  std::string path_;
  std::set<std::string> read_;
};

// Bookkeeping that transformers writes into every configuration, generation settings, and training-time settings.
const std::vector<std::string>& InertKeys() {
  static const std::vector<std::string> keys = {"_name_or_path",
                                                "_attn_implementation_autoset",
                                                "architectures",
                                                "dtype",
                                                "torch_dtype",
                                                "transformers_version",
                                                "use_cache",
                                                "output_attentions",
                                                "output_hidden_states",
                                                "return_dict",
                                                "max_window_layers",
                                                "id2label",
                                                "label2id",
                                                "_commit_hash",
                                                "problem_type",
                                                "chunk_size_feed_forward",
                                                "is_encoder_decoder"};
  return keys;
}

absl::Status ParseRotary(Reader* reader, TextConfig* config) {
  VLM_RETURN_IF_ERROR(reader->Number("rope_theta", &config->rope_theta));
  VLM_RETURN_IF_ERROR(reader->Only("rope_scaling", nullptr));
  const Json* parameters = reader->Find("rope_parameters");
  if (parameters == nullptr) return absl::OkStatus();
  if (!parameters->is_object()) {
    return Unsupported(reader->Path("rope_parameters"), "must be an object", parameters->dump());
  }
  Reader rotary(*parameters, reader->Path("rope_parameters."));
  VLM_RETURN_IF_ERROR(rotary.Number("rope_theta", &config->rope_theta));
  VLM_RETURN_IF_ERROR(rotary.Only("rope_type", "default"));
  return rotary.Finish();
}

absl::Status ParseLayerTypes(Reader* reader, const TextConfig& config) {
  const Json* types = reader->Find("layer_types");
  if (types == nullptr) return absl::OkStatus();
  const Json all_full = std::vector<std::string>(static_cast<size_t>(config.num_hidden_layers), "full_attention");
  if (*types == all_full) return absl::OkStatus();
  return Unsupported(reader->Path("layer_types"), "only \"full_attention\" for every layer is supported",
                     types->dump());
}

absl::Status ParseText(const Json& json, const std::string& path, TextConfig* config) {
  Reader reader(json, path);
  reader.Ignore(InertKeys());
  VLM_RETURN_IF_ERROR(reader.Only("model_type", "qwen2", /*required=*/true));
  for (const auto& [key, target] : {std::pair<const char*, int64_t*>{"vocab_size", &config->vocab_size},
                                    {"hidden_size", &config->hidden_size},
                                    {"intermediate_size", &config->intermediate_size},
                                    {"num_hidden_layers", &config->num_hidden_layers},
                                    {"num_attention_heads", &config->num_attention_heads}}) {
    VLM_RETURN_IF_ERROR(reader.Integer(key, target, /*required=*/true));
  }
  config->num_key_value_heads = config->num_attention_heads;
  VLM_RETURN_IF_ERROR(reader.Integer("num_key_value_heads", &config->num_key_value_heads));
  VLM_RETURN_IF_ERROR(reader.Integer("head_dim", &config->head_dim));
  VLM_RETURN_IF_ERROR(reader.Integer("max_position_embeddings", &config->max_position_embeddings));
  VLM_RETURN_IF_ERROR(reader.Number("rms_norm_eps", &config->rms_norm_eps));
  VLM_RETURN_IF_ERROR(reader.Number("initializer_range", &config->initializer_range));
  VLM_RETURN_IF_ERROR(reader.Boolean("tie_word_embeddings", &config->tie_word_embeddings));
  VLM_RETURN_IF_ERROR(reader.OptionalInteger("bos_token_id", &config->bos_token_id));
  VLM_RETURN_IF_ERROR(reader.OptionalInteger("eos_token_id", &config->eos_token_id));
  VLM_RETURN_IF_ERROR(reader.OptionalInteger("pad_token_id", &config->pad_token_id));
  VLM_RETURN_IF_ERROR(reader.Only("hidden_act", "silu"));
  VLM_RETURN_IF_ERROR(reader.Only("attention_dropout", 0.0));
  VLM_RETURN_IF_ERROR(reader.Only("use_sliding_window", false));
  reader.Ignore({"sliding_window"});  // without effect while use_sliding_window is false
  VLM_RETURN_IF_ERROR(ParseRotary(&reader, config));
  VLM_RETURN_IF_ERROR(ParseLayerTypes(&reader, *config));
  return reader.Finish();
}

absl::Status ParseVision(const Json& json, const std::string& path, VisionConfig* config) {
  Reader reader(json, path);
  reader.Ignore(InertKeys());
  VLM_RETURN_IF_ERROR(reader.Only("model_type", "siglip_vision_model", /*required=*/true));
  for (const auto& [key, target] : {std::pair<const char*, int64_t*>{"hidden_size", &config->hidden_size},
                                    {"intermediate_size", &config->intermediate_size},
                                    {"num_hidden_layers", &config->num_hidden_layers},
                                    {"num_attention_heads", &config->num_attention_heads},
                                    {"image_size", &config->image_size},
                                    {"patch_size", &config->patch_size}}) {
    VLM_RETURN_IF_ERROR(reader.Integer(key, target, /*required=*/true));
  }
  VLM_RETURN_IF_ERROR(reader.Number("layer_norm_eps", &config->layer_norm_eps));
  VLM_RETURN_IF_ERROR(reader.Only("num_channels", 3));
  VLM_RETURN_IF_ERROR(reader.Only("hidden_act", "gelu_pytorch_tanh"));
  VLM_RETURN_IF_ERROR(reader.Only("attention_dropout", 0.0));
  VLM_RETURN_IF_ERROR(reader.Only("vision_use_head", false, /*required=*/true));
  return reader.Finish();
}

// The object under `key`, a sub-configuration.
absl::StatusOr<const Json*> Section(Reader* reader, const std::string& key) {
  const Json* section = reader->Find(key);
  if (section == nullptr) return reader->Missing(key);
  if (!section->is_object()) return Unsupported(reader->Path(key), "must be an object", section->dump());
  return section;
}

absl::StatusOr<Json> ParseObject(std::string_view text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("model configuration is not valid JSON");
  if (!json.is_object()) return absl::InvalidArgumentError("model configuration is not a JSON object");
  return json;
}

void SetOptional(OrderedJson* json, const char* key, const std::optional<int64_t>& value) {
  if (value.has_value()) {
    (*json)[key] = *value;
  } else {
    (*json)[key] = nullptr;
  }
}

OrderedJson TextJson(const TextConfig& config, std::string_view dtype) {
  OrderedJson json;
  json["attention_dropout"] = 0.0;
  SetOptional(&json, "bos_token_id", config.bos_token_id);
  json["dtype"] = std::string(dtype);
  SetOptional(&json, "eos_token_id", config.eos_token_id);
  // transformers' Qwen2 takes hidden_size / heads unless the key is there.
  if (config.HeadSize() * config.num_attention_heads != config.hidden_size) json["head_dim"] = config.HeadSize();
  json["hidden_act"] = "silu";
  json["hidden_size"] = config.hidden_size;
  json["initializer_range"] = config.initializer_range;
  json["intermediate_size"] = config.intermediate_size;
  json["layer_types"] = std::vector<std::string>(static_cast<size_t>(config.num_hidden_layers), "full_attention");
  json["max_position_embeddings"] = config.max_position_embeddings;
  json["max_window_layers"] = config.num_hidden_layers;
  json["model_type"] = "qwen2";
  json["num_attention_heads"] = config.num_attention_heads;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["num_key_value_heads"] = config.num_key_value_heads;
  SetOptional(&json, "pad_token_id", config.pad_token_id);
  json["rms_norm_eps"] = config.rms_norm_eps;
  json["rope_parameters"] = {{"rope_theta", config.rope_theta}, {"rope_type", "default"}};
  json["sliding_window"] = nullptr;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["use_cache"] = true;
  json["use_sliding_window"] = false;
  json["vocab_size"] = config.vocab_size;
  return json;
}

OrderedJson VisionJson(const VisionConfig& config, std::string_view dtype) {
  OrderedJson json;
  json["attention_dropout"] = 0.0;
  json["dtype"] = std::string(dtype);
  json["hidden_act"] = "gelu_pytorch_tanh";
  json["hidden_size"] = config.hidden_size;
  json["image_size"] = config.image_size;
  json["intermediate_size"] = config.intermediate_size;
  json["layer_norm_eps"] = config.layer_norm_eps;
  json["model_type"] = "siglip_vision_model";
  json["num_attention_heads"] = config.num_attention_heads;
  json["num_channels"] = 3;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["patch_size"] = config.patch_size;
  json["vision_use_head"] = false;
  return json;
}

}  // namespace

absl::Status Validate(const TextConfig& config) {
  VLM_RETURN_IF_ERROR(CheckPositive({{"vocab_size", config.vocab_size},
                                     {"hidden_size", config.hidden_size},
                                     {"intermediate_size", config.intermediate_size},
                                     {"num_hidden_layers", config.num_hidden_layers},
                                     {"num_attention_heads", config.num_attention_heads},
                                     {"num_key_value_heads", config.num_key_value_heads},
                                     {"max_position_embeddings", config.max_position_embeddings}}));
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    return Unsupported("num_key_value_heads", "must divide num_attention_heads",
                       std::to_string(config.num_key_value_heads));
  }
  if (config.head_dim < 0) return Unsupported("head_dim", "must not be below 0", std::to_string(config.head_dim));
  if (config.head_dim == 0 && config.hidden_size % config.num_attention_heads != 0) {
    return Unsupported("num_attention_heads", "must divide hidden_size unless head_dim is given",
                       std::to_string(config.num_attention_heads));
  }
  if (config.HeadSize() % 2 != 0) {
    return Unsupported("head_dim", "must be even for the rotary embedding", std::to_string(config.HeadSize()));
  }
  if (!(config.rope_theta > 0)) return Unsupported("rope_theta", "must be above 0", std::to_string(config.rope_theta));
  if (!(config.rms_norm_eps > 0)) {
    return Unsupported("rms_norm_eps", "must be above 0", std::to_string(config.rms_norm_eps));
  }
  if (!(config.initializer_range > 0)) {
    return Unsupported("initializer_range", "must be above 0", std::to_string(config.initializer_range));
  }
  return absl::OkStatus();
}

absl::Status Validate(const VisionConfig& config) {
  VLM_RETURN_IF_ERROR(CheckPositive({{"hidden_size", config.hidden_size},
                                     {"intermediate_size", config.intermediate_size},
                                     {"num_hidden_layers", config.num_hidden_layers},
                                     {"num_attention_heads", config.num_attention_heads},
                                     {"image_size", config.image_size},
                                     {"patch_size", config.patch_size}}));
  if (config.hidden_size % config.num_attention_heads != 0) {
    return Unsupported("num_attention_heads", "must divide hidden_size", std::to_string(config.num_attention_heads));
  }
  if (config.image_size % config.patch_size != 0) {
    return Unsupported("patch_size", "must divide image_size", std::to_string(config.patch_size));
  }
  if (!(config.layer_norm_eps > 0)) {
    return Unsupported("layer_norm_eps", "must be above 0", std::to_string(config.layer_norm_eps));
  }
  return absl::OkStatus();
}

absl::Status Validate(const LlavaConfig& config) {
  if (absl::Status status = Validate(config.text); !status.ok()) return Annotate(status, "text_config");
  if (absl::Status status = Validate(config.vision); !status.ok()) return Annotate(status, "vision_config");
  if (config.image_token_index < 0 || config.image_token_index >= config.text.vocab_size) {
    return Unsupported("image_token_index", "must be an id of the vocabulary",
                       std::to_string(config.image_token_index));
  }
  const int64_t layers = config.vision.num_hidden_layers;
  if (config.vision_feature_layer > layers || config.vision_feature_layer < -layers - 1) {
    return Unsupported("vision_feature_layer", "must name one of the encoder's hidden states",
                       std::to_string(config.vision_feature_layer));
  }
  return absl::OkStatus();
}

absl::StatusOr<TextConfig> ParseTextConfig(std::string_view json) {
  VLM_ASSIGN_OR_RETURN(const Json object, ParseObject(json));
  TextConfig config;
  VLM_RETURN_IF_ERROR(ParseText(object, "", &config));
  VLM_RETURN_IF_ERROR(Validate(config));
  return config;
}

absl::StatusOr<LlavaConfig> ParseLlavaConfig(std::string_view json) {
  VLM_ASSIGN_OR_RETURN(const Json object, ParseObject(json));
  LlavaConfig config;
  Reader reader(object, "");
  reader.Ignore(InertKeys());
  VLM_RETURN_IF_ERROR(reader.Only("model_type", "llava", /*required=*/true));
  VLM_ASSIGN_OR_RETURN(const Json* text, Section(&reader, "text_config"));
  VLM_ASSIGN_OR_RETURN(const Json* vision, Section(&reader, "vision_config"));
  VLM_RETURN_IF_ERROR(ParseText(*text, "text_config.", &config.text));
  VLM_RETURN_IF_ERROR(ParseVision(*vision, "vision_config.", &config.vision));
  std::optional<int64_t> image_tokens;
  VLM_RETURN_IF_ERROR(reader.Integer("image_token_index", &config.image_token_index, /*required=*/true));
  VLM_RETURN_IF_ERROR(reader.Integer("vision_feature_layer", &config.vision_feature_layer, /*required=*/true));
  VLM_RETURN_IF_ERROR(reader.Only("vision_feature_select_strategy", "full", /*required=*/true));
  VLM_RETURN_IF_ERROR(reader.Only("projector_hidden_act", "gelu"));
  VLM_RETURN_IF_ERROR(reader.Only("multimodal_projector_bias", true));
  VLM_RETURN_IF_ERROR(reader.OptionalInteger("image_seq_length", &image_tokens));
  // transformers ties when either level says so.
  bool tied = config.text.tie_word_embeddings;
  VLM_RETURN_IF_ERROR(reader.Boolean("tie_word_embeddings", &tied));
  config.text.tie_word_embeddings |= tied;
  reader.Ignore({"pad_token_id", "bos_token_id", "eos_token_id"});
  VLM_RETURN_IF_ERROR(reader.Finish());
  VLM_RETURN_IF_ERROR(Validate(config));
  if (image_tokens.value_or(config.ImageTokens()) != config.ImageTokens()) {
    return Unsupported("image_seq_length", "must equal the encoder's patches, " + std::to_string(config.ImageTokens()),
                       std::to_string(*image_tokens));
  }
  return config;
}

absl::StatusOr<std::string> ModelType(std::string_view config_json) {
  VLM_ASSIGN_OR_RETURN(const Json object, ParseObject(config_json));
  const auto found = object.find("model_type");
  if (found == object.end() || !found->is_string()) return Unsupported("model_type", "must be a string", "");
  return found->get<std::string>();
}

std::string ToJson(const TextConfig& config, std::string_view dtype) {
  OrderedJson json;
  json["architectures"] = {"Qwen2ForCausalLM"};
  json.update(TextJson(config, dtype));
  return json.dump(2) + "\n";
}

std::string ToJson(const LlavaConfig& config, std::string_view dtype) {
  OrderedJson json;
  json["architectures"] = {"LlavaForConditionalGeneration"};
  json["dtype"] = std::string(dtype);
  json["image_seq_length"] = config.ImageTokens();
  json["image_token_index"] = config.image_token_index;
  json["model_type"] = "llava";
  json["multimodal_projector_bias"] = true;
  json["projector_hidden_act"] = "gelu";
  json["text_config"] = TextJson(config.text, dtype);
  json["tie_word_embeddings"] = config.text.tie_word_embeddings;
  json["vision_config"] = VisionJson(config.vision, dtype);
  json["vision_feature_layer"] = config.vision_feature_layer;
  json["vision_feature_select_strategy"] = "full";
  return json.dump(2) + "\n";
}

absl::StatusOr<TextConfig> TextPreset(std::string_view name) {
  TextConfig config;
  config.vocab_size = 151936;
  config.num_key_value_heads = 2;
  config.rope_theta = 1e6;
  config.tie_word_embeddings = true;
  if (name == "qwen2.5-0.5b") {
    config.hidden_size = 896, config.intermediate_size = 4864;
    config.num_hidden_layers = 24, config.num_attention_heads = 14;
    return config;
  }
  if (name == "qwen2.5-1.5b") {
    config.hidden_size = 1536, config.intermediate_size = 8960;
    config.num_hidden_layers = 28, config.num_attention_heads = 12;
    return config;
  }
  return absl::NotFoundError("no such text model preset; known are qwen2.5-0.5b and qwen2.5-1.5b; asked for " +
                             std::string(name));
}

absl::StatusOr<VisionConfig> VisionPreset(std::string_view name) {
  if (name != "siglip-base-patch16-224") {
    return absl::NotFoundError("no such vision model preset; known is siglip-base-patch16-224; asked for " +
                               std::string(name));
  }
  return VisionConfig{768, 3072, 12, 12, 224, 16, 1e-6};
}

}  // namespace vlm::model
