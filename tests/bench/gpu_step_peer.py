"""The other side of gpu_bench's training step: transformers' LLaVA of the same shape, eager and under torch.compile.

Usage: gpu_step_peer.py [--device cuda] [--layers N] [--rows N] [--length N] [--steps N]
The shapes are those of gpu_bench (tests/gpu/gpu_bench.cc) unless options say otherwise. The head and the loss are at
target positions, as ours; SDPA attention, fused AdamW, clipping at norm 1. fp32 as torch has it (TensorFloat-32 off), and
bf16 as products under autocast beside fp32 weights. Prints lines "NAME<tab>VALUE<tab>UNIT" for scripts/gpu-check; ends
with 77 and a reason where transformers is absent, with 1 when a side failed.
"""

import argparse
import sys
import time

try:
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

    from training_step_peer import Trainer, with_targets
except ImportError as error:
    print(f"SKIPPED: the peers of the step need Python packages that are not here: {error}")
    sys.exit(77)

IMAGE_TOKEN, IMAGE_SIZE, PATCH = 32000, 224, 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2
WARM_UP_STEPS = 3


def build(arguments):
    text = Qwen2Config(vocab_size=32001, hidden_size=1024, intermediate_size=2816, num_hidden_layers=arguments.layers,
                       num_attention_heads=16, num_key_value_heads=4, tie_word_embeddings=True)
    vision = SiglipVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=min(12, arguments.layers),
                                num_attention_heads=12, image_size=IMAGE_SIZE, patch_size=PATCH, vision_use_head=False)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE_TOKEN, vision_feature_layer=-1,
                         vision_feature_select_strategy="full", image_seq_length=IMAGE_TOKENS,
                         tie_word_embeddings=True)
    config._attn_implementation = "sdpa"
    torch.manual_seed(5)
    return LlavaForConditionalGeneration(config).to(arguments.device)


def make_batch(arguments):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, IMAGE_TOKEN, (arguments.rows, arguments.length), generator=generator)
    ids[:, :IMAGE_TOKENS] = IMAGE_TOKEN
    labels = ids.clone()
    labels[ids == IMAGE_TOKEN] = -100
    pixels = torch.rand(arguments.rows, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 2 - 1
    batch = with_targets({"ids": ids, "labels": labels, "pixels": pixels})
    return {name: tensor.to(arguments.device) for name, tensor in batch.items()}


def settle(arguments):
    if arguments.device == "cuda":
        torch.cuda.synchronize()


def measure(name, how, autocast, arguments, batch):
    trainer = Trainer(build(arguments), how, "targets", autocast)
    start = time.perf_counter()
    trainer.step(batch)
    settle(arguments)
    print(f"{name}, first step\t{1e3 * (time.perf_counter() - start):.4g}\tms", flush=True)
    for _ in range(WARM_UP_STEPS - 1):
        trainer.step(batch)
    settle(arguments)
    start = time.perf_counter()
    for _ in range(arguments.steps):
        trainer.step(batch)
    settle(arguments)
    seconds = time.perf_counter() - start
    tokens = arguments.steps * arguments.rows * arguments.length
    print(f"{name} step\t{1e3 * seconds / arguments.steps:.4g}\tms")
    print(f"{name} tokens\t{tokens / seconds:.4g}\ttokens/s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    for option, value in (("--layers", 16), ("--rows", 4), ("--length", 700), ("--steps", 10)):
        parser.add_argument(option, type=int, default=value)
    arguments = parser.parse_args()
    batch, failed = make_batch(arguments), False
    for how, title in (("eager", "eager"), ("compile", "torch.compile")):
        for autocast, kind in ((None, "fp32"), (torch.bfloat16, "bf16")):
            try:
                measure(f"{kind}, {title}", how, autocast, arguments, batch)
            except Exception as error:  # one side's failure does not hide the others' figures
                failed = True
                print(f"{kind}, {title}\tFAILED\t{str(error).splitlines()[0][:200] if str(error) else type(error)}",
                      flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
