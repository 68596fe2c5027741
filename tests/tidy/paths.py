"""Every file of the tree that a source or a document names is there, and every folder that the README lists has one."""
import re

from source_tree import MODULES, ROOT, report, tracked

FOLDERS = MODULES + ["cmake", "docs", "examples", "proto", "scripts", "tests"]
NAMED = re.compile(r"(?<![\w./<>-])((?:" + "|".join(FOLDERS) + r")/[\w./-]*[\w-]\.(?:cc|cu|h|md|proto|py|yaml))\b"
                   r"|(?<![\w./<>-])((?:" + "|".join(FOLDERS) + r")/(?:[\w-]+/)*)(?=`)")
READERS = (".cc", ".cmake", ".cu", ".h", ".md", ".proto", ".py", ".sh", ".txt", ".yaml")

problems = []
for name in tracked():
    path = ROOT / name
    if not path.is_file() or not (name.endswith(READERS) or name.startswith("scripts/")):
        continue
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if "#include" in line:
            continue  # the compiler looks
        for found in NAMED.finditer(line):
            named = found[1] or found[2]
            if not any((folder / named).exists() for folder in (ROOT, path.parent, ROOT / "proto/vlm/v1")):
                problems.append(f"{name}:{number}: names what is not there: {named}")
for folder in re.findall(r"^\| `(\w+)/` \|", (ROOT / "README.md").read_text(), re.MULTILINE):
    if not (ROOT / folder / "README.md").is_file():
        problems.append(f"README.md: lists a folder without a README: {folder}/")
report(problems)
