"""Length budgets of the house: headers, sources, lines, and names that say nothing."""
import re

from source_tree import ROOT, report, sources

HEADER_LINES_MAX = 250
SOURCE_LINES_MAX = 700
COLUMNS_MAX = 120
BANNED_NAMES = re.compile(r"(^|[_/])(utils?|helpers?|common|misc)([_./]|$)")

problems = []
for path in sources(".h", ".cc", ".cu"):
    lines = (ROOT / path).read_text().splitlines()
    limit = HEADER_LINES_MAX if path.suffix == ".h" else SOURCE_LINES_MAX
    if len(lines) > limit:
        problems.append(f"{path}: {len(lines)} lines, the limit is {limit}")
    if BANNED_NAMES.search(str(path)):
        problems.append(f"{path}: name the concept")
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            problems.append(f"{path}:{number}: {len(line)} columns, the limit is {COLUMNS_MAX}")
report(problems)
