"""Exchanges tar archives with Python's tarfile: tar_oracle.py MODE FOLDER."""

import io
import json
import os
import sys
import tarfile

MODE, FOLDER = sys.argv[1], sys.argv[2]


def members():
    """Names and contents that need each kind of header."""
    yield "short.txt", b"hello"
    yield "empty.bin", b""
    yield "block.bin", bytes(range(256)) * 2
    yield "sub/folder/000001.jpg", b"j" * 700
    yield "sub/folder/000001.json", b"{}"
    yield "a" * 90 + "/" + "b" * 90 + ".txt", b"prefix"
    yield "c" * 180 + "/" + "d" * 230 + ".txt", b"long name"
    yield "gr\u00fc\u00dfe/\u4f60\u597d.txt", b"not ascii"


def write(name, format):
    with tarfile.open(os.path.join(FOLDER, name), "w", format=format) as archive:
        folder = tarfile.TarInfo("sub/folder/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for path, data in members():
            info = tarfile.TarInfo("./" + path if path == "short.txt" else path)
            info.size = len(data)
            info.mtime = 1234567890.25
            archive.addfile(info, io.BytesIO(data))


def written():
    """Reads back what the C++ writer left: files.tar and files.json (name to hexadecimal contents)."""
    with open(os.path.join(FOLDER, "files.json")) as file:
        want = json.load(file)
    with tarfile.open(os.path.join(FOLDER, "files.tar"), "r:") as archive:
        got = {}
        for info in archive:
            assert info.isreg() and info.mtime == 0 and info.uid == info.gid == 0 and info.mode == 0o644, info.name
            assert info.uname == info.gname == "", info.name
            got[info.name] = archive.extractfile(info).read().hex()
    assert list(got) == list(want), (list(got), list(want))
    assert got == want


if MODE == "written":
    written()
else:
    write("pax.tar", tarfile.PAX_FORMAT)
    write("gnu.tar", tarfile.GNU_FORMAT)
    with open(os.path.join(FOLDER, "cases.json"), "w") as file:
        json.dump({name: data.hex() for name, data in members()}, file)
