"""Greedy generation with a key/value cache against transformers' generate: one LLaVA, the same weights and prompts.

    generation_bench.py PROGRAM [--threads N ...] [--rounds N] [--tokens N]

PROGRAM is build/test/bench/generation_bench. Prompts of 64 tokens with a picture each, one alone and eight together;
the same number of new tokens on both sides, no stop token, fp32, SDPA. The sides take turns; ratios are the peer's
median over ours (above 1: ours is faster). Answers are compared.
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
PEER = pathlib.Path(__file__).parent / "generation_peer.py"


def write_prompts(folder):
    generator = torch.Generator().manual_seed(9)
    words = []
    for case, count in CASES.items():
        ids = torch.randint(0, llava_folder.IMAGE_TOKEN, (count, PROMPT), generator=generator)
        ids[:, 4:4 + llava_folder.IMAGE_TOKENS] = llava_folder.IMAGE_TOKEN
        size = llava_folder.IMAGE_SIZE
        save_file({"ids": ids, "pixels": torch.randn(count, 3, size, size, generator=generator)},
                  f"{folder}/{case}.safetensors")
        words.append(f"{case}={folder}/{case}.safetensors")
    return words


def measure(arguments, threads, folder, words):
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
        print(f"\n{threads} thread{'s' if threads > 1 else ''}, prompts together: {count}; {same} of {total} tokens "
              "are the same on both sides; ms for all:")
        table(sides, case)
        for side in sides:
            print(f"  {side.name:32} {total / side.median(case):8.0f} tokens/s")
    for side in sides:
        side.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parameters = llava_folder.write(f"{folder}/model")
        words = write_prompts(folder)
        print(f"torch {torch.__version__}, transformers {transformers.__version__}; {parameters / 1e6:.2f} M "
              f"parameters: {llava_folder.SHAPE}")
        for threads in arguments.threads:
            measure(arguments, threads, folder, words)


main()
