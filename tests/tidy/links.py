"""Programs load no library that cmake/arrows.json forbids them. Argument: the folder of the programs."""
import subprocess
import sys

from source_tree import ARROWS, report

problems = []
for program, rules in ARROWS["programs"].items():
    loaded = subprocess.run(["ldd", f"{sys.argv[1]}/{program}"], capture_output=True, text=True)
    if loaded.returncode != 0:
        problems.append(f"{program}: ldd failed: {loaded.stderr.strip()}")
        continue
    for library in rules["forbidden_libraries"]:
        if library in loaded.stdout:
            problems.append(f"{program}: loads {library}")
report(problems)
