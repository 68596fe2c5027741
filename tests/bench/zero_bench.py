"""A training step on several ranks, at zero 0, 2 and 3, against DDP and FSDP2 over Gloo, in turns.

Usage: zero_bench.py FOLDER_OF_PROGRAMS [ROUNDS]
Same LLaVA, weights, batch and optimizer; each rank takes an equal part of the rows; one thread a rank. Ours has the
trainer's allocator and, unless the row says so, the job file's default of overlap, which is off; DDP and FSDP2 overlap.
Ours computes the head at target positions only, the peers at all, as they ship; one row is DDP with the head at
targets. Memory is what a rank's process holds beyond what it held before the model, at its highest while steps run: anonymous and shared memory,
a page that several ranks map counted once in all (Pss of /proc/PID/smaps_rollup, every 5 ms), mean of the ranks.
"""

import pathlib
import re
import statistics
import sys
import tempfile
import threading
import time

import torch
import transformers
from safetensors.torch import save_file

import llava_folder
from turns import Side

BENCH = pathlib.Path(__file__).parent
PROGRAM = pathlib.Path(sys.argv[1]) / "zero_bench"
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
STEPS = 3  # of a turn
ROWS, LENGTH = 8, 128
OURS = {"zero 0": "0", "zero 2": "2", "zero 2, overlap": "2+overlap", "zero 3": "3"}
PEERS = {"DDP": "ddp", "DDP, head at targets": "ddp_targets", "FSDP2, parameters kept": "fsdp2_keep", "FSDP2": "fsdp2"}


def write_batch(path):
    torch.manual_seed(3)
    ids = torch.randint(0, llava_folder.IMAGE_TOKEN, (ROWS, LENGTH))
    ids[:, 1:1 + llava_folder.IMAGE_TOKENS] = llava_folder.IMAGE_TOKEN
    labels = ids.clone()
    labels[ids == llava_folder.IMAGE_TOKEN] = -100
    pixels = torch.rand(ROWS, 3, llava_folder.IMAGE_SIZE, llava_folder.IMAGE_SIZE) * 2 - 1
    save_file({"ids": ids, "labels": labels, "pixels": pixels}, path)


def ranks_of(side):
    children = pathlib.Path(f"/proc/{side.process.pid}/task/{side.process.pid}/children")
    return [int(word) for word in children.read_text().split()]


def held_mib(pids):
    total = 0
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += sum(int(re.search(rf"{what}:\s+(\d+)", text)[1]) for what in ("Pss_Anon", "Pss_Shmem"))
    return total / len(pids) / 1024


def peak_mib(side, request):
    """The highest held_mib while the request is answered."""
    pids, peak, done = ranks_of(side), [0.0], threading.Event()

    def sample():
        while not done.is_set():
            peak[0] = max(peak[0], held_mib(pids))
            time.sleep(0.005)
    sampler = threading.Thread(target=sample)
    sampler.start()
    side.ask(request)
    done.set()
    sampler.join()
    return peak[0]


def measure(world, model, batch, scratch):
    """Prints the rows of so many ranks; how many times as fast zero 2 is as zero 0."""
    sides = []
    for name, level in OURS.items():
        (scratch / f"{world}-{level}").mkdir()
        sides.append(Side(name, [PROGRAM, world, scratch / f"{world}-{level}", level, model, batch]))
    for name, how in PEERS.items():
        (scratch / f"{world}-{how}").mkdir()
        sides.append(Side(name, [sys.executable, BENCH / "zero_peer.py", world, scratch / f"{world}-{how}", how, model,
                                 batch]))
    before, losses, peaks = {}, {}, {}
    for side in sides:
        side.ask("0")  # no step: its libraries are loaded and its ranks connected
        before[side.name] = held_mib(ranks_of(side))
        side.ask("model")
        losses[side.name] = side.ask("1")["loss"]
    for _ in range(ROUNDS):
        for side in sides:
            side.measure("step", STEPS)
    for side in sides:
        peaks[side.name] = peak_mib(side, "10") - before[side.name]
        side.close()
    assert max(losses.values()) - min(losses.values()) < 1e-4 * max(losses.values()), losses
    milliseconds = {side.name: 1e3 * side.median("step") for side in sides}
    for name in milliseconds:
        against = [f"{milliseconds[peer] / milliseconds[name]:.2f}x" for peer in PEERS]
        ratios = " | ".join(against) if name in OURS else "| | |"
        print(f"| {world} | {name} | {milliseconds[name]:.1f} | {ROWS * LENGTH / milliseconds[name] * 1e3:,.0f} | "
              f"{peaks[name]:.0f} | {ratios} |", flush=True)
    return milliseconds["zero 0"] / milliseconds["zero 2"]


def main():
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, Gloo over loopback; fp32, one thread a "
          f"rank, {ROWS} rows of {LENGTH} in all, {LENGTH - llava_folder.IMAGE_TOKENS - 1} positions of a row are "
          f"targets, medians of {ROUNDS} turns of {STEPS} steps\n")
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        (scratch / "model").mkdir()
        parameters = llava_folder.write(scratch / "model")
        write_batch(scratch / "batch.safetensors")
        print(f"{parameters / 1e6:.1f} M parameters: {llava_folder.SHAPE}\n")
        print(f"| ranks | how | ms a step | positions/s | peak MiB a rank | {' | '.join(f'against {p}' for p in PEERS)} |")
        print("|---|---|---|---|---|---|---|---|---|")
        gains = {world: measure(world, scratch / "model", scratch / "batch.safetensors", scratch) for world in (2, 4)}
        print("\nzero 2 against zero 0: " + ", ".join(f"{gain:.2f}x on {world} ranks" for world, gain in gains.items()))


main()
