"""Every request and response of every rpc, and every detail of an error, is named by a fuzz target: who reads bytes of
others has one."""
import re

from source_tree import ROOT, report

RPC = re.compile(r"\brpc\s+(\w+)\s*\(\s*(?:stream\s+)?([\w.]+)\s*\)\s*returns\s*\(\s*(?:stream\s+)?([\w.]+)\s*\)")


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def rpc_types(proto):
    """{message: an rpc that it is of} of one .proto's text; an rpc that is not understood is an error."""
    text = without_comments(proto)
    found = RPC.findall(text)
    assert len(found) == len(re.findall(r"\brpc\b", text)), "an rpc that this check does not read"
    return {kind.split(".")[-1]: method for method, *kinds in found for kind in kinds}


def messages(proto):
    """{message: "the wire"} of those that one .proto's text defines at its top."""
    return {name: "the wire" for name in re.findall(r"^message\s+(\w+)", without_comments(proto), re.M)}


def unnamed(types, sources):
    """A problem for each type that no text of `sources` names outside its comments."""
    words = set()
    for text in sources:
        words.update(re.findall(r"\w+", without_comments(text)))
    return [f"{name}, of {where}: no tests/fuzz/*.cc names it" for name, where in sorted(types.items())
            if name not in words]


def main():
    types = {}
    for path in sorted((ROOT / "proto").rglob("*.proto")):
        types.update(rpc_types(path.read_text()))
    assert types, "no rpc at all"
    types.update(messages((ROOT / "proto/vlm/v1/error.proto").read_text()))
    report(unnamed(types, [path.read_text() for path in (ROOT / "tests/fuzz").glob("*.cc")]))


if __name__ == "__main__":
    main()
