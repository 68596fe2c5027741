"""#include lines and CMake links follow the arrows of cmake/arrows.json; no file mixes torch and Protobuf headers.
Argument: module_links.json, which the configured build folder holds (cmake/VlmTargets.cmake)."""
import json
import pathlib
import re
import sys

from source_tree import ARROWS, ROOT, report, sources, target_of

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.M)
# What is linked for the headers that "heavy" names.
HEAVY_LINKS = {"cuda": ["vlm::nccl"], "torch": ["vlm::torch"], "grpc": ["gRPC::"], "rocksdb": ["RocksDB::"],
               "yaml": ["yaml-cpp"], "prometheus": ["prometheus-cpp::"], "protobuf": ["vlm::proto", "protobuf::"]}


def heavy_of(name, table):
    """The heavy dependency that a header or a linked target belongs to, or None."""
    for heavy, prefixes in table.items():
        if any(name.startswith(prefix) for prefix in prefixes):
            return heavy
    return None


def include_problems(path, text):
    """What is wrong with the #include lines of one file, whose path is relative to the root."""
    owner = target_of(path)
    if owner is None:
        return [f"{path}: no target of cmake/arrows.json owns it"]
    target, problems, seen = ARROWS["targets"][owner], [], set()
    for header in INCLUDE.findall(text):
        heavy = heavy_of(header, ARROWS["heavy"])
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
    return problems


def owners_of(target):
    """The entries of arrows.json that a CMake target's sources belong to."""
    return {owner for owner in (target_of(source) for source in target["sources"]) if owner}


def link_problems(built):
    """What is wrong with the links of CMake targets: {name: {"sources": [...], "links": [...]}}."""
    problems = []
    for name, target in built.items():
        owners = owners_of(target)
        if len(owners) > 1:
            problems.append(f"{name}: one target builds sources of {', '.join(sorted(owners))}")
        for owner in owners:
            allowed = ARROWS["targets"][owner]
            for link in target["links"]:
                heavy = heavy_of(link, HEAVY_LINKS)
                if heavy and heavy not in allowed["heavy"]:
                    problems.append(f"{name}: {owner} may not link {heavy}: {link}")
                linked = built.get(link.replace("vlm::", "vlm_"), {"sources": []})
                for used in sorted(owners_of(linked) - {owner} - set(allowed["uses"])):
                    problems.append(f"{name}: {owner} may not link {used}: {link}")
    return problems


def unbuilt_problems(built):
    """Entries of arrows.json that no CMake target has sources of: then the links were not looked at."""
    seen = set().union(*(owners_of(target) for target in built.values()))
    return [f"{name}: no CMake target builds its sources" for name in ARROWS["targets"] if name not in seen]


def main():
    problems = []
    for path in sources(".h", ".cc", ".cu"):
        problems += include_problems(path, (ROOT / path).read_text())
    built = json.loads(pathlib.Path(sys.argv[1]).read_text())
    report(problems + link_problems(built) + unbuilt_problems(built))


if __name__ == "__main__":
    main()
