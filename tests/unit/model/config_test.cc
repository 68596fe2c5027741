#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/llava_config.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using ::testing::HasSubstr;

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ConfigTest, WhatIsWrittenIsRead) {
  LlavaConfig config = testing::SmallLlava();
  config.text.eos_token_id = 3;
  config.text.rope_theta = 1e6;
  const auto read = ParseLlavaConfig(ToJson(config, "float32"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, config);
  config.text.head_dim = 0;
  const auto text = ParseTextConfig(ToJson(config.text, "bfloat16"));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, config.text);
  EXPECT_EQ(*ModelType(ToJson(config.text, "float32")), "qwen2");
  EXPECT_EQ(*ModelType(ToJson(config, "float32")), "llava");
}

TEST(ConfigTest, ReadsTheOlderSpelling) {
  const auto config = ParseTextConfig(R"({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
      "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896,
      "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768,
      "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
      "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
      "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.43.1", "use_cache": true,
      "use_sliding_window": false, "vocab_size": 151936})");
  ASSERT_TRUE(config.ok()) << config.status();
  TextConfig expected = *TextPreset("qwen2.5-0.5b");
  expected.bos_token_id = 151643, expected.eos_token_id = 151645;
  EXPECT_EQ(*config, expected);
}

TEST(ConfigTest, WhatIsNotComputedIsRefusedByName) {
  const std::string good = ToJson(testing::SmallLlava(), "float32");
  const auto message = [&](const std::string& from, const std::string& to) {
    const auto result = ParseLlavaConfig(Replaced(good, from, to));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  EXPECT_THAT(message("\"silu\"", "\"gelu\""), HasSubstr("only \"silu\" is supported; key text_config.hidden_act"));
  EXPECT_THAT(message("\"use_sliding_window\": false", "\"use_sliding_window\": true"),
              HasSubstr("key text_config.use_sliding_window, found true"));
  EXPECT_THAT(message("\"rope_type\": \"default\"", "\"rope_type\": \"llama3\""),
              HasSubstr("key text_config.rope_parameters.rope_type"));
  EXPECT_THAT(message("\"use_cache\": true", "\"use_catch\": true"),
              HasSubstr("the key is not known; key text_config.use_catch"));
  EXPECT_THAT(message("\"vision_use_head\": false", "\"vision_use_head\": true"),
              HasSubstr("key vision_config.vision_use_head"));
  EXPECT_THAT(message("\"full\"", "\"default\""), HasSubstr("key vision_feature_select_strategy"));
  EXPECT_THAT(message("\"image_seq_length\": 9", "\"image_seq_length\": 8"),
              HasSubstr("key image_seq_length, found 8"));
  EXPECT_THAT(message("\"vocab_size\": 97", "\"vocab_size\": \"97\""), HasSubstr("key text_config.vocab_size"));
}

TEST(ConfigTest, SizesThatDoNotFitAreRefusedByName) {
  const auto message = [](auto change) {
    LlavaConfig config = testing::SmallLlava();
    change(&config);
    return std::string(Validate(config).message());
  };
  EXPECT_EQ(message([](LlavaConfig*) {}), "");
  EXPECT_THAT(message([](LlavaConfig* c) { c->text.num_key_value_heads = 3; }), HasSubstr("key num_key_value_heads"));
  EXPECT_THAT(message([](LlavaConfig* c) { c->text.head_dim = 9; }), HasSubstr("must be even"));
  EXPECT_THAT(message([](LlavaConfig* c) { c->vision.patch_size = 5; }), HasSubstr("vision_config: unsupported"));
  EXPECT_THAT(message([](LlavaConfig* c) { c->image_token_index = 97; }), HasSubstr("key image_token_index"));
  EXPECT_THAT(message([](LlavaConfig* c) { c->vision_feature_layer = -4; }), HasSubstr("key vision_feature_layer"));
  EXPECT_THAT(message([](LlavaConfig* c) { c->text.hidden_size = 0; }), HasSubstr("key hidden_size, found 0"));
}

TEST(ConfigTest, BrokenTextIsRefused) {
  EXPECT_THAT(std::string(ParseTextConfig("{").status().message()), HasSubstr("not valid JSON"));
  EXPECT_THAT(std::string(ParseTextConfig("[]").status().message()), HasSubstr("not a JSON object"));
  EXPECT_THAT(std::string(ParseTextConfig("{}").status().message()), HasSubstr("the key is required; key model_type"));
  EXPECT_THAT(std::string(TextPreset("qwen9").status().message()), HasSubstr("qwen2.5-0.5b"));
}

}  // namespace
}  // namespace vlm::model
