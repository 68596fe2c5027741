"""scripts/show-outcome on the log of a real run of CTest. Usage: show_outcome_test.py CTEST ONE_SKIPPED_CASE"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
CTEST, ONE_SKIPPED_CASE = sys.argv[1:3]
PLACE = "tests/unit/scripts/one_skipped_case.cc:"
REASON = "no second moon may be mounted here"


class ShowOutcomeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_tests(self, **commands):
        """Tests of CTest, each a line of the shell; exit code 77 is a skip. What show-outcome prints."""
        lines = []
        for name, command in commands.items():
            lines += [f'add_test({name} "/bin/sh" "-c" "{command}")',
                      f"set_tests_properties({name} PROPERTIES SKIP_RETURN_CODE 77)"]
        (self.folder / "CTestTestfile.cmake").write_text("\n".join(lines) + "\n")
        subprocess.run([CTEST, "--test-dir", self.folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.show()

    def show(self):
        done = subprocess.run([ROOT / "scripts/show-outcome", self.folder], capture_output=True, text=True, check=True)
        return done.stdout.strip().splitlines()

    def test_a_case_of_a_binary_that_passed_is_named_with_its_reason(self):
        for option in ("", " --gtest_brief=1"):
            shown = self.run_tests(first="echo fine", cases=f"seq 1 9999; {ONE_SKIPPED_CASE}{option}; seq 1 9999")
            self.assertEqual(shown[0], "Skipped: 1")
            self.assertRegex(shown[1], f"^  cases, {PLACE}[0-9]+: {REASON}$")
            self.assertEqual(len(shown), 2)

    def test_a_case_of_a_binary_that_failed_is_named_too(self):
        self.assertRegex(self.run_tests(fails=f"{ONE_SKIPPED_CASE}; false")[-1], f"^  fails, {PLACE}[0-9]+: {REASON}$")

    def test_a_failure_shows_what_was_expected_and_its_last_lines(self):
        told = f"{ROOT}/README.md:7: Failure\\nExpected: 2\\n  Actual: 3\\n[  FAILED  ] OneTest.Adds"
        shown = self.run_tests(fails=f"seq 1 999; printf '{told}\\n'; seq 1 70; exit 1",
                               passes="printf 'b.cc:1: Failure'")
        self.assertEqual(shown[:4], ["fails failed:", "  README.md:7: Failure", "  Expected: 2", "    Actual: 3"])
        self.assertEqual(shown[4:6], ["  the last lines of 1073:", "  11"])
        self.assertEqual(shown[-3:], ["  70", "", "Skipped: nothing"])

    def test_a_test_that_dies_is_shown(self):
        self.assertEqual(self.run_tests(dies="echo begun; kill -9 $$")[:3],
                         ["dies failed:", "  the last lines of 1:", "  begun"])

    def test_a_whole_test_gives_its_last_line_as_the_reason(self):
        shown = self.run_tests(whole="echo looking; echo no GPU here; exit 77", other="echo no GPU here")
        self.assertEqual(shown, ["Skipped: 1", "  whole: no GPU here"])

    def test_one_that_says_nothing_is_counted_all_the_same(self):
        self.assertEqual(self.run_tests(silent="exit 77"), ["Skipped: 1", "  silent: no reason given"])

    def test_cases_whose_lines_are_missing_are_counted(self):
        quiet = f"{ONE_SKIPPED_CASE} | grep -v one_skipped_case.cc"
        self.assertEqual(self.run_tests(quiet=quiet),
                         ["Skipped: 1", "  quiet: 1 more, for reasons that are not in the log"])

    def test_nothing_skipped_is_said(self):
        self.assertEqual(self.run_tests(runs="echo fine"), ["Skipped: nothing"])

    def test_without_a_log_it_fails(self):
        with self.assertRaises(subprocess.CalledProcessError):
            self.show()


unittest.main(argv=sys.argv[:1])
