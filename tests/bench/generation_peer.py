"""The other side of generation_bench: transformers' generate on the same folder and prompts, greedy, no stop token.

Usage: generation_peer.py FOLDER THREADS NEW_TOKENS CASE=PROMPTS.safetensors ...
Reads "CASE ROUNDS" per line; answers as generation_bench does.
"""

import json
import sys
import time

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, LlavaForConditionalGeneration, Qwen2ForCausalLM

MODELS = {"llava": LlavaForConditionalGeneration, "qwen2": Qwen2ForCausalLM}


def main():
    folder, threads, new_tokens = sys.argv[1:4]
    torch.set_num_threads(int(threads))
    kind = MODELS[AutoConfig.from_pretrained(folder).model_type]
    model = kind.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    model.eval()
    prompts = {case: load_file(path) for case, path in (word.split("=") for word in sys.argv[4:])}
    for line in sys.stdin:
        case, rounds = line.split()
        ids = prompts[case]["ids"]
        pictures = {"pixel_values": prompts[case]["pixels"]} if "pixels" in prompts[case] else {}
        seconds = []
        for _ in range(int(rounds)):
            start = time.perf_counter()
            with torch.inference_mode():
                out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                     use_cache=True, max_new_tokens=int(new_tokens), eos_token_id=None,
                                     pad_token_id=0, **pictures)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "answers": out[:, ids.shape[1]:].tolist()}), flush=True)


main()
