"""Collectives over shared memory and over TCP against Gloo, as processes of this machine, in turns.

Usage: collectives_bench.py FOLDER_OF_PROGRAMS [ROUNDS]
Prints a Markdown table: medians on rank 0 and how many times as long Gloo takes. all-reduce is on our side a
reduce-scatter and an all-gather, which is what a step does.
"""

import pathlib
import subprocess
import sys
import tempfile

from turns import Side

BENCH = pathlib.Path(__file__).parent
PROGRAM = pathlib.Path(sys.argv[1]) / "collectives_bench"
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
SIZES = [64 << 10, 1 << 20, 8 << 20, 64 << 20]
OPERATIONS = ["all_reduce", "reduce_scatter", "all_gather"]
REPEATS = {64 << 10: 40, 1 << 20: 20, 8 << 20: 8, 64 << 20: 3}  # of a turn


def size_text(size):
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def measure(world):
    with tempfile.TemporaryDirectory() as folder:
        places = {name: f"{folder}/{name}" for name in ("shared_memory", "tcp", "gloo")}
        for place in places.values():
            pathlib.Path(place).mkdir()
        sides = [Side(name, [PROGRAM, name, world, places[name]]) for name in ("shared_memory", "tcp")]
        sides.append(Side("gloo", [sys.executable, BENCH / "collectives_peer.py", world, places["gloo"]]))
        cases = [(operation, size) for operation in OPERATIONS for size in SIZES]
        for _ in range(ROUNDS):
            for operation, size in cases:
                for side in sides:
                    side.measure((operation, size), f"{operation} {size} {REPEATS[size]}")
        for side in sides:
            side.close()
        for operation, size in cases:
            memory, tcp, gloo = (1e3 * side.median((operation, size)) for side in sides)
            print(f"| {world} | {operation.replace('_', '-')} | {size_text(size)} | {memory:.3f} | {tcp:.3f} | {gloo:.3f} "
                  f"| {gloo / memory:.1f}x | {gloo / tcp:.1f}x |", flush=True)


version = subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], check=True,
                         capture_output=True, text=True).stdout.strip()
print(f"torch {version} with its Gloo over loopback; fp32, one thread a rank, medians in ms of {ROUNDS} turns\n")
print("| ranks | operation | buffer | shared memory | TCP | Gloo | shared memory is faster | TCP is faster |")
print("|---|---|---|---|---|---|---|---|")
for ranks in (2, 4):
    measure(ranks)
