"""Byte-pair training and encoding against Hugging Face `tokenizers` (and tiktoken where installed).

    tokenizer_bench.py BENCH_PROGRAM [--corpus NAME=FILE ...] [--megabytes N] [--vocab N] [--rounds N]

One thread on both sides, interleaved, medians of the rounds; ids and merges are checked to be equal. Without
--corpus the texts are what this machine has: documentation and licences (english), Python sources (code),
and drawn characters with the frequencies of a language (chinese-like).
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+")


def gather(folders, suffixes, limit):
    documents, size = [], 0
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.suffix not in suffixes or not path.is_file() or path.stat().st_size > 1 << 20:
                continue
            try:
                text = path.read_text(encoding="utf-8").replace("\0", "")
            except (UnicodeDecodeError, OSError):
                continue
            documents.append(text)
            size += len(text)
            if size >= limit:
                return documents
    return documents


def chinese_like(limit):
    draw = random.Random(7)
    weights = [1 / (rank + 5) for rank in range(3500)]
    characters = [chr(0x4E00 + 5 * rank) for rank in range(3500)]
    documents = []
    for _ in range(limit // 6000):
        text = draw.choices(characters, weights, k=2000)
        for at in range(draw.randint(5, 15), 2000, 12):
            text[at] = draw.choice("，。、？\n")
        documents.append("".join(text))
    return documents


def default_corpora(limit):
    libraries = os.path.dirname(os.path.dirname(tokenizers.__file__))
    return {
        "english": gather(["/usr/share/common-licenses", "/usr/share/doc", "/usr/share/perl", libraries],
                          {"", ".txt", ".md", ".rst", ".pod", ".html"}, limit),
        "chinese-like": chinese_like(limit),
        "code": gather([libraries], {".py"}, limit),
    }


def run(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def train_reference(documents, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(GPT4), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=2, show_progress=False,
        special_tokens=[AddedToken("<|endoftext|>", special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    start = time.perf_counter()
    tokenizer.train_from_iterator(documents, trainer)
    return time.perf_counter() - start, tokenizer


def digest(encoded):
    value = 0xCBF29CE484222325
    for ids in encoded:
        for i in ids:
            value = ((value ^ i) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def encode_reference(path, documents):
    tokenizer = Tokenizer.from_file(path)  # anew each round: its word cache starts empty, as ours does
    tokenizer.encode_special_tokens = True
    start = time.perf_counter()
    encoded = [tokenizer.encode(document).ids for document in documents]
    return time.perf_counter() - start, encoded


def encode_tiktoken(path, documents):
    try:
        import tiktoken
    except ImportError:
        return None
    model = json.load(open(path, encoding="utf-8"))["model"]
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    of = {chr(b): b for b in printable}
    of.update({chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in printable)})
    ranks = {bytes(of[c] for c in entry): i for entry, i in model["vocab"].items() if entry != "<|endoftext|>"}
    encoding = tiktoken.Encoding("bench", pat_str=GPT4, mergeable_ranks=ranks, special_tokens={})
    start = time.perf_counter()
    for document in documents:
        encoding.encode_ordinary(document)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--corpus", action="append", default=[])
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    corpora = {}
    for pair in arguments.corpus:
        name, path = pair.split("=", 1)
        corpora[name] = open(path, encoding="utf-8").read().split("\0")
    corpora = corpora or default_corpora(int(arguments.megabytes * 1e6))
    print(f"tokenizers {tokenizers.__version__}, one thread, vocabulary {arguments.vocab}, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for name, documents in corpora.items():
            bench(arguments, folder, name, documents)


def bench(arguments, folder, name, documents):
    corpus, ours_json = os.path.join(folder, "corpus"), os.path.join(folder, "ours.json")
    with open(corpus, "w", encoding="utf-8", newline="") as file:
        file.write("\0".join(documents))
    megabytes = os.path.getsize(corpus) / 1e6
    ours, parts, theirs = [], [], []
    for _ in range(arguments.rounds):
        printed = run([arguments.bench, "train", "gpt4", str(arguments.vocab), corpus, ours_json])
        parts.append([float(seconds) for seconds in printed])
        ours.append(sum(parts[-1]))
        seconds, reference = train_reference(documents, arguments.vocab)
        theirs.append(seconds)
    model = json.loads(reference.to_str())["model"]
    made = json.load(open(ours_json, encoding="utf-8"))["model"]
    if model["vocab"] != made["vocab"] or model["merges"] != made["merges"]:
        sys.exit(f"{name}: merges differ from the reference's")
    count, merge = (statistics.median(p[i] for p in parts) for i in (0, 1))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{name:13s} train  {megabytes:6.1f} MB: ours {a:7.3f} s (count {count:.3f}, merge {merge:.3f}), "
          f"tokenizers {b:7.3f} s, {b / a:5.1f}x, {len(made['merges'])} equal merges")
    ours, theirs, tiktoken = [], [], []
    for _ in range(arguments.rounds):
        seconds, ids, ours_digest = run([arguments.bench, "encode", ours_json, corpus])
        ours.append(float(seconds))
        seconds, encoded = encode_reference(ours_json, documents)
        theirs.append(seconds)
        tiktoken.append(encode_tiktoken(ours_json, documents))
    if int(ours_digest) != digest(encoded):
        sys.exit(f"{name}: ids differ from the reference's")
    a, b = statistics.median(ours), statistics.median(theirs)
    line = (f"{name:13s} encode {megabytes:6.1f} MB: ours {megabytes / a:7.1f} MB/s, "
            f"tokenizers {megabytes / b:7.2f} MB/s, {b / a:5.1f}x, {ids} equal ids")
    if tiktoken[0] is not None:
        c = statistics.median(tiktoken)
        line += f"; tiktoken {megabytes / c:.2f} MB/s, {c / a:.1f}x"
    print(line, flush=True)


main()
