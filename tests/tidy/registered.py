"""Every C++ source of the tree is compiled by some CMake list, and every header is included by a source."""
import os
import pathlib
import re

from source_tree import MODULES, ROOT, report, sources

SOURCE = re.compile(r'[^\s"()]+\.(?:cc|cu)\b')


def named_in(path):
    """Sources that a CMake list names, relative to the root."""
    folder = path.parent.relative_to(ROOT)
    text = re.sub(r"#.*", "", path.read_text())
    for name in SOURCE.findall(text):
        if name.startswith("${PROJECT_SOURCE_DIR}/"):
            yield pathlib.Path(name.removeprefix("${PROJECT_SOURCE_DIR}/"))
        else:
            yield folder / name.removeprefix("${CMAKE_CURRENT_SOURCE_DIR}/")


named = set()
for folder in MODULES + ["tests"]:
    for path in (ROOT / folder).rglob("CMakeLists.txt"):
        named.update(named_in(path))
problems = []
for path in sources(".cc", ".cu", folders=MODULES + ["tests"]):
    if path not in named:
        problems.append(f"{path}: no CMakeLists.txt names it")
included = set()
for path in sources(".h", ".cc", ".cu", folders=MODULES + ["tests"]):
    for name in re.findall(r'#include "([^"]+)"', (ROOT / path).read_text()):
        included.update([name, os.path.normpath(path.parent / name)])  # as the compiler looks for it
for path in sources(".h", folders=MODULES + ["tests"]):
    if str(path) not in included:
        problems.append(f"{path}: nobody includes it")
report(problems)
