"""#include lines follow the arrows of cmake/arrows.json; no file mixes torch and Protobuf headers."""
import re

from source_tree import ARROWS, ROOT, report, sources, target_of

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.M)


def heavy_of(header):
    for name, prefixes in ARROWS["heavy"].items():
        if any(header.startswith(prefix) for prefix in prefixes):
            return name
    return None


problems = []
for path in sources(".h", ".cc", ".cu"):
    owner = target_of(path)
    if owner is None:
        problems.append(f"{path}: no target of cmake/arrows.json owns it")
        continue
    target = ARROWS["targets"][owner]
    seen = set()
    for header in INCLUDE.findall((ROOT / path).read_text()):
        heavy = heavy_of(header)
        if heavy:
            seen.add(heavy)
            if heavy not in target["heavy"]:
                problems.append(f"{path}: {owner} may not include {heavy} headers: {header}")
            continue
        used = target_of(header)
        if used and used != owner and used not in target["uses"]:
            problems.append(f"{path}: {owner} may not use {used}: {header}")
    if {"torch", "protobuf"} <= seen or {"torch", "grpc"} <= seen:
        problems.append(f"{path}: includes torch beside Protobuf or gRPC headers")
report(problems)
