"""Many rounds of kills (kill_rounds.py), and their table. Usage: soak.py --bin D --to FILE [--rounds N] [--seed S]"""
import argparse
import collections
import pathlib
import statistics
import textwrap
import time
import traceback

from kill_rounds import VICTIMS, Round, undisturbed

POINTS_EACH = 2  # of each place, per round


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
    rounds, failures = collections.defaultdict(list), []
    for number in range(options.rounds):
        for victim in VICTIMS:
            one = Round(options.bin, victim, f"{seed}.{number}", POINTS_EACH)
            print(f"round {number + 1} of {options.rounds}: {victim}", flush=True)
            try:
                one.run(reference)
            except Exception as error:  # the table is to say which rounds failed, and the others still run
                traceback.print_exc()
                failures.append(f"round {number + 1}, {victim}: {error}".splitlines()[0])
            rounds[victim].append(one)
    text = report(command, rounds, failures, time.monotonic() - begin)
    options.to.write_text(text)
    print(text)
    return 1 if failures else 0


def report(command, rounds, failures, seconds):
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
              f"Rounds that failed: {len(failures) or 'none'}."]
    lines += [f"- {failure}" for failure in failures]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
