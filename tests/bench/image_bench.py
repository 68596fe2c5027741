"""Decode, bicubic resize and normalise against Pillow and the Pillow processors' numpy, one thread, interleaved.

Usage: image_bench.py PATH_OF_image_bench [ROUNDS]
Prints median milliseconds of both sides and their ratio (above 1: ours is faster).
"""

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL
from PIL import Image, features

PROGRAM = sys.argv[1]
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
STEPS = ["decode", "resize", "normalise"]
CASES = [(2400, 1700, 336, 336), (640, 480, 336, 336), (640, 480, 224, 224), (64, 48, 24, 24)]


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(x / (13 + 5 * c) + y / (17 - c)) + 20 * ((x // 40 + y // 30) % 2) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def pillow_round(data, width, height):
    start = time.perf_counter()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    decoded = time.perf_counter()
    small = image.resize((width, height), Image.BICUBIC)
    resized = time.perf_counter()
    values = (np.asarray(small).astype(np.float64) * (1 / 255)).astype(np.float32).transpose(2, 0, 1)
    values = np.ascontiguousarray(((values.T - np.float32(0.5)) / np.float32(0.5)).T)
    done = time.perf_counter()
    return {"decode": decoded - start, "resize": resized - decoded, "normalise": done - resized}


print(f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}, numpy {np.__version__}")
for in_width, in_height, width, height in CASES:
    data = picture(in_width, in_height)
    repeats = min(200, max(5, 6_000_000 // (in_width * in_height)))
    ours, theirs = [], []
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        for _ in range(ROUNDS):
            lines = subprocess.run([PROGRAM, file.name, str(width), str(height), str(repeats)], check=True,
                                   capture_output=True, text=True).stdout.splitlines()
            ours += [json.loads(line) for line in lines]
            pillow_round(data, width, height)  # not counted, as in the program
            theirs += [pillow_round(data, width, height) for _ in range(repeats)]
    print(f"{in_width} x {in_height} -> {width} x {height}")
    totals = [0.0, 0.0]
    for step in STEPS:
        a, b = (1e3 * statistics.median(row[step] for row in rows) for rows in (ours, theirs))
        totals = [totals[0] + a, totals[1] + b]
        print(f"  {step:10} ours {a:8.3f} ms   Pillow {b:8.3f} ms   ratio {b / a:5.2f}")
    print(f"  {'all':10} ours {totals[0]:8.3f} ms   Pillow {totals[1]:8.3f} ms   ratio {totals[1] / totals[0]:5.2f}")
