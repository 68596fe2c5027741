"""Writes the LLaVA folder that a benchmark's two sides open, or its text model alone, a Qwen2: random weights, drawn by
transformers from a seed."""

import torch
from transformers import (LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM,
                          SiglipVisionConfig)

VOCABULARY, IMAGE_TOKEN = 4096, 4095
IMAGE_SIZE, PATCH = 48, 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2
TEXT_SHAPE = "text 5 layers, hidden 256, 8 heads on 4, feed-forward 704, vocabulary 4,096 untied"
SHAPE = f"{TEXT_SHAPE}; vision 3 layers, hidden 192, 6 heads, feed-forward 768, 48 px in patches of 8"


def text_config():
    return Qwen2Config(vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=5,
                       num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=4096,
                       tie_word_embeddings=False)


def write_text(folder):
    """Returns the number of parameters."""
    return save(Qwen2ForCausalLM, text_config(), folder)


def write(folder):
    """Returns the number of parameters."""
    vision = SiglipVisionConfig(hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=6,
                                image_size=IMAGE_SIZE, patch_size=PATCH, vision_use_head=False)
    config = LlavaConfig(text_config=text_config(), vision_config=vision, image_token_index=IMAGE_TOKEN,
                         vision_feature_layer=-1, vision_feature_select_strategy="full",
                         image_seq_length=IMAGE_TOKENS)
    return save(LlavaForConditionalGeneration, config, folder)


def save(kind, config, folder):
    torch.manual_seed(5)
    model = kind(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
