"""Many rounds of kills (kill_rounds.py) and, beside them, of stopped and cut off processes; and their table.

Usage: soak.py --bin D --to FILE [--rounds N] [--seed S]"""
import argparse
import collections
import concurrent.futures
import pathlib
import re
import statistics
import subprocess
import sys
import textwrap
import time
import traceback

from kill_rounds import VICTIMS, Round, undisturbed

POINTS_EACH = 2  # of each place, per round
# What is not a SIGKILL: the cases of CTest, again and again.
CASES = [
    ("stops_test.py", "a_stopped_trainer_is_replaced", "SIGSTOP of a trainer in a save"),
    ("stops_test.py", "a_stopped_worker_is_replaced_and_wakes_too_late", "SIGSTOP of a worker and its rank in a save"),
    ("stops_test.py", "a_worker_that_wakes_in_the_next_attempts_save_changes_nothing",
     "SIGSTOP of a worker whose rank lives, awake in the next attempt's save"),
    ("stops_test.py", "a_stopped_coordinator_kills_no_job", "SIGSTOP of the coordinator for 10 s"),
    ("stops_test.py", "a_coordinator_that_is_away_costs_no_step", "coordinator away for 20 s"),
    ("stops_test.py", "a_rank_that_never_leaves_a_collective_is_replaced", "rank that never leaves a collective"),
    ("network_test.py", "a_worker_that_is_cut_off_is_replaced_and_taken_back", "worker cut off by a proxy"),
    ("network_test.py", "a_submit_whose_answer_is_lost_is_one_job", "answer to a submit lost"),
]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--to", type=pathlib.Path, required=True)
    return parser.parse_args()


def main():
    options = arguments()
    seed = options.seed if options.seed is not None else int(time.time())
    command = f"scripts/soak --rounds {options.rounds} --seed {seed}"
    print(command, flush=True)
    begin = time.monotonic()
    reference = undisturbed(options.bin)
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        others = beside.submit(run_cases, options.bin, options.rounds)
        rounds, failures = run_kills(options.bin, options.rounds, seed, reference)
        cases, failed_cases = others.result()
    text = report(command, rounds, cases, failures + failed_cases, time.monotonic() - begin)
    options.to.write_text(text)
    print(text)
    return 1 if failures or failed_cases else 0


def run_kills(binaries, number_of_rounds, seed, reference):
    """The rounds of each victim, and a line for each that failed."""
    rounds, failures = collections.defaultdict(list), []
    for number in range(number_of_rounds):
        for victim in VICTIMS:
            one = Round(binaries, victim, f"{seed}.{number}", POINTS_EACH)
            print(f"round {number + 1} of {number_of_rounds}: {victim}", flush=True)
            try:
                one.run(reference)
            except Exception as error:  # the table is to say which rounds failed, and the others still run
                traceback.print_exc()
                failures.append(f"round {number + 1}, {victim}: {error}".splitlines()[0])
            rounds[victim].append(one)
    return rounds, failures


def run_cases(binaries, number_of_rounds):
    """What each case that passed has measured, {what: [{name: seconds}]}, and a line for each that failed."""
    passed, failures = {what: [] for _, _, what in CASES}, []
    for number in range(number_of_rounds):
        for file, case, what in CASES:
            done = subprocess.run([sys.executable, pathlib.Path(__file__).with_name(file), case, binaries],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode == 0:
                passed[what].append({name: float(seconds) for name, seconds in
                                     re.findall(r"^measured: (.+): ([0-9.]+) s$", done.stdout, re.M)})
                print(f"  {what}: passed", flush=True)
            else:
                print(done.stdout, flush=True)
                failures.append(f"round {number + 1}, {what}: exit code {done.returncode}")
    return passed, failures


def report(command, rounds, cases, failures, seconds):
    kills = [result for ones in rounds.values() for one in ones for result in one.results]
    told = (f"`{command}`: {len(kills)} kills in {seconds / 60:.0f} minutes on real processes, by "
            "`tests/integration/service/`. Every job of every round has to end with the weights of an undisturbed run, "
            "bit for bit, with every step that the catalog calls complete verified, no folder without a row, and "
            "nothing lost that was acknowledged before a kill.")
    lines = ["# Soak", "", *textwrap.wrap(told, 120, break_long_words=False, break_on_hyphens=False), "",
             "| SIGKILL of | where | rounds | kills | moves again after, median | most |", "|---|---|---|---|---|---|"]
    for victim, ones in rounds.items():
        results = [result for one in ones for result in one.results]
        for place, where in (("random", "random moments"), ("save", "in the middle of a save"),
                             ("end", "between last step and success")):
            times = [result.recovered_s for result in results if result.kill.place == place]
            if times:
                lines.append(f"| {victim} | {where} | {len(ones)} | {len(times)} | {statistics.median(times):.1f} s | "
                             f"{max(times):.1f} s |")
    points = collections.Counter(result.kill.point for result in kills if result.kill.point)
    named = ", ".join(f"`{name}` {points[name]}" for name in sorted(points))
    lines += ["", *textwrap.wrap(f"Kills at each named place: {named}.", 120, break_long_words=False), "",
              "Beside them, on the same two cores, cases of CTest (`service.*`); each says what it looks at:", "",
              "| what | passed | until | median | most |", "|---|---|---|---|---|"]
    for what, passed in cases.items():
        for name in passed[0] if passed else []:
            times = [one[name] for one in passed]
            lines.append(f"| {what} | {len(times)} | {name} | {statistics.median(times):.1f} s | {max(times):.1f} s |")
    lines += ["",
              f"Rounds that failed: {len(failures) or 'none'}."]
    lines += [f"- {failure}" for failure in failures]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
