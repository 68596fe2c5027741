"""Every C++ source of the tree is compiled by some CMake list, and every header is included by a source."""
import re

from source_tree import ROOT, MODULES, report, sources

problems = []
lists = "\n".join(path.read_text() for path in ROOT.glob("**/CMakeLists.txt") if "build" not in path.parts
                  and ".deps" not in path.parts)
everything = sources(".cc", folders=MODULES + ["tests"])
for path in everything:
    if not re.search(rf"(^|[\s/\"]){re.escape(path.name)}\b", lists):
        problems.append(f"{path}: no CMakeLists.txt names it")
included = set()
for path in sources(".h", ".cc", ".cu", folders=MODULES + ["tests"]):
    included.update(re.findall(r'#include "([^"]+)"', (ROOT / path).read_text()))
for path in sources(".h"):
    if str(path) not in included:
        problems.append(f"{path}: nobody includes it")
report(problems)
