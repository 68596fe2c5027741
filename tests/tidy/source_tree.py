"""What the tidy tests know of the tree: its C++ sources and where they belong."""
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARROWS = json.loads((ROOT / "cmake/arrows.json").read_text())
MODULES = ["base", "store", "spec", "rpc", "telemetry", "data", "model", "checkpoint", "train", "trainer", "worker",
           "coordinator", "cli"]


def sources(*endings, folders=MODULES):
    """Paths of the modules' files with one of the endings, relative to the root, sorted."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in endings:
                found.append(path.relative_to(ROOT))
    return found


def target_of(path):
    """The target of arrows.json that owns a source, by the longest folder."""
    best, best_length = None, -1
    for name, target in ARROWS["targets"].items():
        for folder in target["folders"]:
            if str(path).startswith(folder + "/") and len(folder) > best_length:
                best, best_length = name, len(folder)
    return best


def tracked():
    """Files git tracks, relative to the root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def report(problems):
    """Prints the problems and ends the test."""
    for problem in problems:
        print(problem)
    raise SystemExit(1 if problems else 0)
