"""Every deliberate defect of tests/mutations/ applies to the tree as it stands, and names a test that there is.

`scripts/mutate` says whether the tests find them, which takes long; a patch that went stale is told here, at once."""
import re
import subprocess

from source_tree import ROOT, report

TESTS = {name for path in (ROOT / "tests").rglob("CMakeLists.txt")
         for name in re.findall(r"vlm_test\(\s*(\w+)", path.read_text())}

problems = []
patches = sorted((ROOT / "tests/mutations").glob("*.patch"))
for path in patches:
    name, text = path.relative_to(ROOT), path.read_text()
    found_by = re.search(r"^Found by: (\w+)", text, re.M)
    if found_by and found_by.group(1) not in TESTS:
        problems.append(f"{name}: no such test: {found_by.group(1)}")
    tried = subprocess.run(["patch", "--dry-run", "--force", "--fuzz=0", "--strip=1", f"--directory={ROOT}"],
                           input=text, capture_output=True, text=True)
    if tried.returncode != 0:
        problems.append(f"{name}: does not apply, make it anew: {' '.join(tried.stdout.split())}")
if not patches:
    problems.append("tests/mutations: no patches")
report(problems)
