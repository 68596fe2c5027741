"""The training step against transformers and torch on the CPU: one LLaVA, the same weights file, the same batch.

    training_step_bench.py PROGRAM [--threads N ...] [--rounds N] [--steps N] [--no-compile] [--allocator NAME ...]

Without options all rows of docs/benchmarks.md: one and two threads, eager under malloc and tcmalloc, torch.compile under
the latter. PROGRAM is build/test/bench/training_step_bench. Two cases: every position is a target, and 40 % of them (an
instruction batch). Peers: transformers eager and torch.compile with the head at all positions, as it ships, and both
again with a head that sees targets only. SDPA attention, fused AdamW, clipping at norm 1, fp32 on all sides. The sides
take turns; ratios are the peer's median over ours (above 1: ours is faster). By processor time they hardly depend on
what else the machine does. Losses are compared: all sides compute the same.
"""

import argparse
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file

import llava_folder
from turns import ALLOCATORS, Side, library_of, table

ROWS, LENGTH = 8, 128
ANSWER = 51  # 40 % of a row
CASES = {"all": "all positions are targets", "instruction": "40 % of the positions are targets"}
PEER = pathlib.Path(__file__).parent / "training_step_peer.py"


def write_batches(folder):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, llava_folder.IMAGE_TOKEN, (ROWS, LENGTH), generator=generator)
    ids[:, 4:4 + llava_folder.IMAGE_TOKENS] = llava_folder.IMAGE_TOKEN
    size = llava_folder.IMAGE_SIZE
    pixels = torch.randn(ROWS, 3, size, size, generator=generator)
    answers = torch.full_like(ids, -100)
    answers[:, -ANSWER:] = ids[:, -ANSWER:]
    words = []
    for case, labels in (("all", ids.clone()), ("instruction", answers)):
        path = f"{folder}/{case}.safetensors"
        save_file({"ids": ids, "labels": labels, "pixels": pixels}, path)
        words.append(f"{case}={path}")
    return words


def start(arguments, threads, folder, words, caches):
    model, sides = f"{folder}/model", []

    def add(name, command, allocator="malloc", environment=()):
        side = Side(name, command, threads, allocator, environment)
        side.loss = side.ask("all 1")["loss"]  # before the next one starts, which would disturb its first step
        sides.append(side)

    add("ours", [arguments.program, model, threads, *words])
    for where in ("all", "targets"):
        peer = lambda how: [sys.executable, PEER, model, threads, how, where, *words]
        for allocator in arguments.allocator:
            add(f"eager, head on {where}, {allocator}", peer("eager"), allocator)
        if arguments.compile:
            cache = {"TORCHINDUCTOR_CACHE_DIR": f"{caches}/{threads}-{where}"}  # empty: the first step compiles
            add(f"compile, head on {where}, {arguments.allocator[-1]}", peer("compile"), arguments.allocator[-1], cache)
    return sides


def measure(arguments, threads, folder, words, caches):
    sides = start(arguments, threads, folder, words, caches)
    worst = max(abs(side.loss / sides[0].loss - 1) for side in sides)
    print(f"\n{threads} thread{'s' if threads > 1 else ''}; losses of the first step agree within {worst:.1e}")
    print("first optimizer step after the program starts:")
    for side in sides:
        print(f"  {side.name:32} {side.first:6.1f} s")
    for case in CASES:
        for side in sides:
            side.ask(f"{case} 2")  # warm
    for _ in range(arguments.rounds):
        for case in CASES:
            for side in sides:
                side.measure(case, f"{case} {arguments.steps}")
    for case, title in CASES.items():
        print(f"{title}, ms per step:")
        table(sides, case)
        for side in sides[1:]:
            if side.name.startswith("eager") and side.name.endswith(arguments.allocator[0]):
                share = side.ask(f"{case} profile")
                bound = 1 / (share["gemm"] + share["attention"])
                print(f"  {side.name}: {100 * share['gemm']:.0f} % in matrix products, "
                      f"{100 * share['attention']:.0f} % in attention; without anything else it would be {bound:.2f} "
                      "times as fast")
    for side in sides:
        side.close()
    if worst > 1e-5:
        raise SystemExit(f"the sides compute different losses: {worst:.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--allocator", nargs="+", choices=["malloc", *ALLOCATORS], default=["malloc", "tcmalloc"])
    arguments = parser.parse_args()
    for allocator in arguments.allocator:
        library_of(allocator)  # now, not after a quarter of an hour
    with tempfile.TemporaryDirectory() as folder:
        parameters = llava_folder.write(f"{folder}/model")
        words = write_batches(folder)
        print(f"torch {torch.__version__}, transformers {transformers.__version__}; {parameters / 1e6:.2f} M "
              f"parameters: {llava_folder.SHAPE}; {ROWS} rows of {LENGTH} tokens with a picture each")
        for threads in arguments.threads:
            measure(arguments, threads, folder, words, f"{folder}/caches")


main()
