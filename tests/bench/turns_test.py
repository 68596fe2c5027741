"""An allocator that is not in the measured process is an error, not a figure."""

import os
import sys
import tempfile
import unittest

import turns

ANSWERS = "import sys\nfor line in sys.stdin: print('{\"seconds\": [1.0]}', flush=True)"


class AllocatorTest(unittest.TestCase):
    def setUp(self):
        known = dict(turns.ALLOCATORS)
        self.addCleanup(turns.ALLOCATORS.update, known)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def ask(self, allocator):
        side = turns.Side("side", [sys.executable, "-c", ANSWERS], allocator=allocator)
        try:
            return side.ask("1")
        finally:
            side.close()

    def test_the_c_librarys_own_needs_nothing(self):
        self.assertEqual(self.ask("malloc"), {"seconds": [1.0]})

    def test_one_that_is_not_installed_is_named(self):
        turns.ALLOCATORS["tcmalloc"] = os.path.join(self.folder.name, "libnone.so")
        with self.assertRaisesRegex(SystemExit, "scripts/setup --bench: tcmalloc.*libnone.so"):
            self.ask("tcmalloc")

    def test_one_that_the_loader_refuses_is_named(self):
        turns.ALLOCATORS["tcmalloc"] = os.path.join(self.folder.name, "libbroken.so")
        with open(turns.ALLOCATORS["tcmalloc"], "w") as library:
            library.write("no library")
        with self.assertRaisesRegex(SystemExit, "not loaded.*tcmalloc.*libbroken.so"):
            self.ask("tcmalloc")

    def test_one_that_is_loaded_is_measured(self):
        # Whatever library this interpreter has not loaded by itself would do; a link to the C library always exists.
        with open("/proc/self/maps") as maps:
            loaded = next(line.split()[-1] for line in maps if "libc.so.6" in line or "libc-" in line)
        turns.ALLOCATORS["tcmalloc"] = os.path.join(self.folder.name, "libc-link.so")
        os.symlink(loaded, turns.ALLOCATORS["tcmalloc"])
        self.assertEqual(self.ask("tcmalloc"), {"seconds": [1.0]})


unittest.main()
