"""Calls that only base/ and main.cc may make, marks of unfinished work, and text that must not be committed."""
import re

from source_tree import ROOT, report, sources, tracked

AMBIENT = {
    r"\babsl::Now\(": "inject vlm::Clock",
    r"\bgetenv\(": "read the environment in main.cc",
    r"\bstd::random_device\b": "inject vlm::Rng or a key",
    r"\bsleep_for\(|\busleep\(|\babsl::SleepFor\(": "wait on a condition with a deadline",
    r"(?<![_\w.>])exit\(": "return a status to main.cc",
}
# ATen's generator would make results depend on call order: randomness is counter-based (base/random.h).
GENERATOR = r"\bat::(rand|randn|randint|randperm|bernoulli|dropout|normal)\(|manual_seed\("
UNFINISHED = r"\b(TODO|FIXME|XXX|HACK)\b"
# Leaving at once is right where a process has lost its reason to exist; each place says why.
ALLOWED = {("trainer/worker_link.cc", "exit")}

problems = []
for path in sources(".h", ".cc", ".cu"):
    text = (ROOT / path).read_text()
    free = str(path).startswith("base/") or path.name == "main.cc"
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("//")[0]
        for pattern, remedy in AMBIENT.items():
            if not free and re.search(pattern, code):
                problems.append(f"{path}:{number}: {remedy}: {line.strip()}")
        if re.search(GENERATOR, code):
            problems.append(f"{path}:{number}: no ATen generator: {line.strip()}")
        if re.search(UNFINISHED, line):
            problems.append(f"{path}:{number}: unfinished: {line.strip()}")
for name in tracked():
    path = ROOT / name
    if path.suffix in {".png", ".jpg", ".bin", ".npy"} or not path.is_file() or name.startswith("tests/tidy/"):
        continue
    text = path.read_text(errors="replace")
    if re.search(r"/(work|home)/[a-z]+/|pypi\.org|files\.pythonhosted|deb\.debian\.org", text):
        problems.append(f"{name}: names a machine's path or a registry's address")
report(problems)
