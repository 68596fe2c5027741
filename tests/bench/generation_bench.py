"""Greedy generation with a key/value cache against transformers' generate: a LLaVA, and its text model, a Qwen2, alone;
the same weights and prompts.

    generation_bench.py PROGRAM [--models NAME ...] [--threads N ...] [--rounds N] [--tokens N]

PROGRAM is build/test/bench/generation_bench. Prompts of 64 tokens, of which 36 are a picture's for the LLaVA, one alone
and eight together; the same number of new tokens on both sides, no stop token, fp32, SDPA. The sides take turns; ratios
are the peer's median over ours (above 1: ours is faster). Answers are compared.
"""

import argparse
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file

import llava_folder
from turns import Side, table

PROMPT = 64
CASES = {"one": 1, "eight": 8}
MODELS = {"llava": (llava_folder.write, llava_folder.SHAPE),
          "qwen2": (llava_folder.write_text, llava_folder.TEXT_SHAPE)}
PEER = pathlib.Path(__file__).parent / "generation_peer.py"


def write_prompts(folder, pictures):
    generator = torch.Generator().manual_seed(9)
    words = []
    for case, count in CASES.items():
        ids = torch.randint(0, llava_folder.IMAGE_TOKEN, (count, PROMPT), generator=generator)
        prompts = {"ids": ids}
        if pictures:
            ids[:, 4:4 + llava_folder.IMAGE_TOKENS] = llava_folder.IMAGE_TOKEN
            size = llava_folder.IMAGE_SIZE
            prompts["pixels"] = torch.randn(count, 3, size, size, generator=generator)
        save_file(prompts, f"{folder}/{case}.safetensors")
        words.append(f"{case}={folder}/{case}.safetensors")
    return words


def measure(arguments, model, threads, folder, words):
    common = [f"{folder}/model", threads, arguments.tokens, *words]
    sides = [Side("ours", [arguments.program, *common], threads),
             Side("transformers generate", [sys.executable, PEER, *common], threads)]
    for case, count in CASES.items():
        answers = [side.ask(f"{case} 1")["answers"] for side in sides]
        same = sum(a == b for one, other in zip(*answers) for a, b in zip(one, other))
        total = count * arguments.tokens
        for _ in range(arguments.rounds):
            for side in sides:
                side.measure(case, f"{case} 1")
        print(f"\n{model}, {threads} thread{'s' if threads > 1 else ''}, prompts together: {count}; {same} of {total} tokens "
              "are the same on both sides; ms for all:")
        table(sides, case)
        for side in sides:
            print(f"  {side.name:32} {total / side.median(case):8.0f} tokens/s")
    for side in sides:
        side.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    for model in arguments.models:
        write, shape = MODELS[model]
        with tempfile.TemporaryDirectory() as folder:
            parameters = write(f"{folder}/model")
            words = write_prompts(folder, pictures=model == "llava")
            print(f"\n{model}: {parameters / 1e6:.2f} M parameters: {shape}")
            for threads in arguments.threads:
                measure(arguments, model, threads, folder, words)


main()
