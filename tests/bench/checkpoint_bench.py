"""Checkpoints: pause, write rate against fio, load and reshard against torch DCP, on the current folder's disk.

Usage: checkpoint_bench.py FOLDER_OF_PROGRAMS [ROUNDS]
fio writes files of these sizes in the same folder, one after the other, and syncs each at its end, as a save of one rank
does, which also hashes: through the page cache by blocks of 1 MiB, and past it, as our writer does, by 2 MiB; the faster
of the two is the limit. Its rate is of the bytes that it says it has written. Loads come from the disk: the files' pages
are dropped beforehand. Both sides load what they wrote: weights and AdamW's moments of one LLaVA. FSDP2 ends with each
rank's shard of both, and so does our load; the column beside it goes on until every rank has all weights, as zero 2
trains. Prints Markdown tables.
"""

import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

from turns import Side

BENCH = pathlib.Path(__file__).parent
PROGRAM = pathlib.Path(sys.argv[1]) / "checkpoint_bench"
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
PAGE = 4096  # what O_DIRECT asks of sizes
RESHARDS = [(1, 1), (2, 4), (4, 2)]
IMAGE_TOKEN, LENGTH, PIXELS, PATCHES = 8191, 24, 24, 16


def write_inputs(folder):
    """A LLaVA of some 50 M parameters and one row; returns the number of parameters."""
    text = Qwen2Config(vocab_size=8192, hidden_size=640, intermediate_size=1792, num_hidden_layers=8,
                       num_attention_heads=10, num_key_value_heads=5, tie_word_embeddings=False)
    vision = SiglipVisionConfig(hidden_size=192, intermediate_size=768, num_hidden_layers=2, num_attention_heads=6,
                                image_size=PIXELS, patch_size=6, vision_use_head=False)
    torch.manual_seed(5)
    model = LlavaForConditionalGeneration(LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=IMAGE_TOKEN, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_seq_length=PATCHES))
    model.save_pretrained(folder)
    ids = torch.arange(LENGTH).unsqueeze(0)
    ids[:, 1:1 + PATCHES] = IMAGE_TOKEN
    labels = ids.masked_fill(ids == IMAGE_TOKEN, -100)
    save_file({"ids": ids, "labels": labels, "pixels": torch.rand(1, 3, PIXELS, PIXELS)},
              folder / "batch.safetensors")
    return sum(parameter.numel() for parameter in model.parameters())


def sides_of(world, scratch):
    sides = {}
    for name, command in (("ours", [PROGRAM]), ("dcp", [sys.executable, BENCH / "checkpoint_peer.py"])):
        sockets = scratch / f"sockets-{name}-{world}"
        sockets.mkdir()
        sides[name] = Side(name, [*command, world, sockets, scratch / "model", scratch / "model/batch.safetensors"])
        sides[name].ask("model")
    return sides


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def drop_pages(folder):
    for path in files_below(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fio_mib_per_s(folder, sizes, direct):
    """Of writing and syncing files of these sizes, one after the other; without fio's own start. fio leaves out what is
    less than a block at a file's end, so blocks divide the files, which are up to a page a block larger for it."""
    folder.mkdir()
    sections = ["[global]", f"directory={folder}", "rw=write", "ioengine=psync", "end_fsync=1", "stonewall",
                f"direct={int(direct)}"]
    for number, size in enumerate(sizes):
        blocks = max(1, math.ceil(size / ((2 if direct else 1) << 20)))
        block = max(1, math.ceil(size / blocks / PAGE)) * PAGE
        sections += [f"[file{number}]", f"filename=file{number}", f"size={blocks * block}", f"bs={block}"]
    job = folder / "job.fio"
    job.write_text("\n".join(sections) + "\n")
    done = subprocess.run(["fio", "--output-format=json", job], check=True, capture_output=True, text=True).stdout
    report = json.loads(done[done.index("{"):])
    shutil.rmtree(folder)
    written = sum(one["write"]["io_bytes"] for one in report["jobs"])
    assert sum(sizes) <= written < 1.1 * sum(sizes), f"fio was to write {sum(sizes)} bytes, it says {written}"
    return written / (1 << 20) / (sum(one["write"]["runtime"] for one in report["jobs"]) / 1e3)


def measure_writes(scratch, sides):
    rates = {name: [] for name in ("ours", "dcp", "cached", "direct")}
    for number in range(-1, ROUNDS):  # the first one warms up
        taken = {}
        for name, side in sides.items():
            folder = scratch / f"write-{name}"
            folder.mkdir()
            seconds = side.ask(f"save {folder}")["seconds"][0]
            sizes = [path.stat().st_size for path in files_below(folder)] if name == "ours" else sizes
            taken[name] = sum(sizes) / (1 << 20) / seconds
            shutil.rmtree(folder)
        taken["cached"] = fio_mib_per_s(scratch / "write-fio", sizes, direct=False)
        taken["direct"] = fio_mib_per_s(scratch / "write-fio", sizes, direct=True)
        if number >= 0:
            for name, rate in taken.items():
                rates[name].append(rate)
    ours, dcp, cached, direct = (statistics.median(rates[name]) for name in ("ours", "dcp", "cached", "direct"))
    print(f"| MiB/s | ours | fio, page cache | fio, direct | DCP | of the faster fio | of DCP |\n"
          f"|---|---|---|---|---|---|---|\n"
          f"| write {sum(sizes) / (1 << 20):.0f} MiB in {len(sizes)} files, one rank, synced | {ours:.0f} | "
          f"{cached:.0f} | {direct:.0f} | {dcp:.0f} | {ours / max(cached, direct):.2f}x | {ours / dcp:.2f}x |",
          flush=True)


def measure_pauses(scratch, sides):
    """What training waits for: our copy of the state, DCP's async_save until it returns."""
    folder = scratch / "pause-dcp"
    times = {"ours": [], "dcp": []}
    for number in range(-1, ROUNDS):
        for name, request in (("ours", "pause"), ("dcp", f"pause {folder}")):
            seconds = sides[name].ask(request)["seconds"][0]
            if number >= 0:
                times[name].append(seconds)
        shutil.rmtree(folder)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n| what | ours s | DCP s | ratio |\n|---|---|---|---|\n"
          f"| pause of training, one rank | {medians['ours']:.3f} | {medians['dcp']:.3f} | "
          f"{medians['dcp'] / medians['ours']:.1f}x |", flush=True)


def measure_loads(scratch, groups):
    print("\n| saved by | loaded by | ours s | DCP s | ratio | ours with all weights gathered s |\n"
          "|---|---|---|---|---|---|")
    for saved_by, loaded_by in RESHARDS:
        folders = {name: scratch / f"load-{name}-{saved_by}" for name in ("ours", "dcp")}
        times = {name: [] for name in (*folders, "gathered")}
        for name, folder in folders.items():
            folder.mkdir()
            groups[saved_by][name].ask(f"save {folder}")
        for number in range(-1, ROUNDS):
            for name, folder in folders.items():
                drop_pages(folder)
                seconds = groups[loaded_by][name].ask(f"load {folder}")["seconds"][0]
                if number >= 0:
                    times[name].append(seconds)
                if name == "ours":
                    more = groups[loaded_by][name].ask("gather")["seconds"][0]
                    if number >= 0:
                        times["gathered"].append(seconds + more)
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"| {saved_by} | {loaded_by} | {medians['ours']:.2f} | {medians['dcp']:.2f} | "
              f"{medians['dcp'] / medians['ours']:.1f}x | {medians['gathered']:.2f} |", flush=True)
        for folder in folders.values():
            shutil.rmtree(folder)


def main():
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix="checkpoint-bench-") as name:
        scratch = pathlib.Path(name)
        (scratch / "model").mkdir()
        parameters = write_inputs(scratch / "model")
        kind = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", scratch], capture_output=True, text=True).stdout.strip()
        fio = subprocess.run(["fio", "--version"], capture_output=True, text=True).stdout.strip()
        print(f"torch {torch.__version__}, transformers {transformers.__version__}, {fio}, {kind}; "
              f"{parameters / 1e6:.0f} M parameters in fp32 with AdamW's moments, medians of {ROUNDS}\n")
        groups = {world: sides_of(world, scratch) for world in (1, 2, 4)}
        measure_writes(scratch, groups[1])
        measure_pauses(scratch, groups[1])
        measure_loads(scratch, groups)
        for sides in groups.values():
            for side in sides.values():
                side.close()


main()
