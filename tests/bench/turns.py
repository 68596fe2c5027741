"""Programs that take turns: each is started once, then asked for a number of rounds at a time.

A program reads one request per line and answers with one line of JSON whose "seconds" has an entry per round. While one
works the others wait for their next line, so a change of the machine's speed meets all of them alike.
"""

import json
import os
import statistics
import subprocess
import time

ALLOCATORS = {"tcmalloc": "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
              "jemalloc": "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"}


def library_of(allocator):
    """The file to preload, None for the C library's own; ends the program where it is not installed."""
    if allocator == "malloc":
        return None
    path = ALLOCATORS[allocator]
    if not os.path.exists(path):
        raise SystemExit(f"the allocator is not installed; run scripts/setup --bench: {allocator}, {path}")
    return path


def check_loaded(pid, allocator):
    """Ends the program unless the process has the library in its memory: ld.so only warns of one it cannot load."""
    path = library_of(allocator)
    if path is None:
        return
    with open(f"/proc/{pid}/maps") as maps:
        if not any(line.rstrip().endswith(os.path.realpath(path)) for line in maps):
            raise SystemExit(f"the allocator was not loaded, so nothing was measured with it: {allocator}, {path}")


class Side:
    """One program. `first` is the time from its start to the answer to its first request."""

    def __init__(self, name, command, threads=1, allocator="malloc", environment=()):
        self.name = name
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
                           TOKENIZERS_PARALLELISM="false", **dict(environment))
        self.allocator = allocator
        if library_of(allocator) is not None:
            environment["LD_PRELOAD"] = library_of(allocator)
        self.started = time.monotonic()
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)
        self.seconds = {}  # by case
        self.processor = {}  # by case, of each request's rounds on average
        self.first = None

    def ask(self, request):
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        if self.first is None:
            self.first = time.monotonic() - self.started
            check_loaded(self.process.pid, self.allocator)
        return json.loads(line)

    def processor_seconds(self):
        """User and system time of the process so far; other work on the machine hardly changes it."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def measure(self, case, request):
        before = self.processor_seconds()
        answer = self.ask(request)
        self.seconds.setdefault(case, []).extend(answer["seconds"])
        each = (self.processor_seconds() - before) / max(1, len(answer["seconds"]))
        self.processor.setdefault(case, []).append(each)
        return answer

    def median(self, case):
        return statistics.median(self.seconds[case])

    def spread(self, case):
        """Half the distance between the quartiles, as a share of the median."""
        quartiles = statistics.quantiles(self.seconds[case], n=4)
        return (quartiles[2] - quartiles[0]) / 2 / self.median(case)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def table(sides, case):
    """Medians of wall time and of processor time of every side, and each one's ratio to the first side."""
    ours = sides[0]
    processor = {side: statistics.median(side.processor[case]) for side in sides}
    for side in sides:
        ratio = "" if side is ours else (f"  ratio {side.median(case) / ours.median(case):5.2f}   by processor time "
                                         f"{processor[side] / processor[ours]:5.2f}")
        print(f"  {side.name:32} {1e3 * side.median(case):8.1f} +- {100 * side.spread(case):2.0f} %   processor "
              f"{1e3 * processor[side]:8.1f}{ratio}")
