"""The coordinator: durable submits against etcd's puts, memory, and how long it is away when it is killed.

Usage: coordinator_bench.py FOLDER_OF_PROGRAMS FOLDER_OF_BENCHMARKS [ROUNDS]
Everything lies in one temporary folder of the current disk, never on tmpfs. etcd (Debian's etcd-server) gets values as
long as the job file, from the same client program, in turns with the submits. Prints Markdown tables.
"""

import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from turns import Side

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS, BENCH = (pathlib.Path(word) for word in sys.argv[1:3])
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
CLIENTS = 16
TURN = 800  # writes
STORED, ACTIVE, WORKERS = 10_000, 1_000, 8
SLOTS = ACTIVE // WORKERS


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Coordinator:
    def __init__(self, folder):
        self.folder = folder
        self.state = folder / "state"
        self.log = open(folder / "coordinator.log", "ab")
        self.start()

    def start(self):
        where = self.state / "coordinator.json"
        before = where.stat().st_mtime_ns if where.exists() else 0
        self.process = subprocess.Popen(
            [PROGRAMS / "vlm-coordinator", "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0",
             "--state-dir", self.state, "--artifact-root", self.folder / "artifacts", "--log-level", "error"],
            stdout=self.log, stderr=self.log)
        while not where.exists() or where.stat().st_mtime_ns == before:
            assert self.process.poll() is None, (self.folder / "coordinator.log").read_text()
            time.sleep(0.001)

    def resident_mib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Etcd:
    def __init__(self, folder):
        clients, peers = free_port(), free_port()
        self.address = f"127.0.0.1:{clients}"
        self.process = subprocess.Popen(
            ["etcd", "--data-dir", folder / "etcd", "--listen-client-urls", f"http://{self.address}",
             "--advertise-client-urls", f"http://{self.address}", "--listen-peer-urls", f"http://127.0.0.1:{peers}",
             "--initial-advertise-peer-urls", f"http://127.0.0.1:{peers}",
             "--initial-cluster", f"default=http://127.0.0.1:{peers}", "--log-level", "error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while socket.socket().connect_ex(("127.0.0.1", clients)):
            assert self.process.poll() is None, "etcd ended"
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def job_files(folder):
    """The whole pipeline of the small example, and its first stage alone; composed, as vlmctl sends them."""
    sets = ["--set", "metadata.name=bench-name", "--set", "spec.seed=424242", "--set", "spec.ranks.max=1"]
    whole = subprocess.run([PROGRAMS / "vlmctl", "render", ROOT / "examples/shapes/tiny.yaml", *sets], check=True,
                           capture_output=True, text=True).stdout
    (folder / "whole.yaml").write_text(whole)
    lines = whole.splitlines(keepends=True)
    second = [i for i, line in enumerate(lines) if line.startswith("    - name: ")][1]
    after = next(i for i in range(second, len(lines)) if not lines[i].startswith("    "))
    (folder / "one.yaml").write_text("".join(lines[:second] + lines[after:]))
    return {"whole": folder / "whole.yaml", "one": folder / "one.yaml"}


def count_syncs(process, work):
    """Calls of fsync and fdatasync while `work` runs; the traced turn is in no other figure."""
    with tempfile.NamedTemporaryFile("r") as out:
        tracer = subprocess.Popen(["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-o", out.name, "-p",
                                   str(process.pid)], stderr=subprocess.DEVNULL)
        time.sleep(1)
        work()
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        return sum(int(line.split()[3]) for line in out if line.split()[-1:] in (["fsync"], ["fdatasync"]))


def measure_submits(folder, coordinator, jobs):
    etcd = Etcd(folder)
    turn = 0
    print(f"| {CLIENTS} clients, job file | submits/s | p50 ms | p99 ms | syncs per 100 submits | etcd puts/s | p50 ms | "
          "p99 ms | syncs per 100 puts | ratio |\n|---|---|---|---|---|---|---|---|---|---|")
    for name, job in jobs.items():
        sides = [Side("submit", [BENCH / "coordinator_bench", "submit", coordinator.state, job, CLIENTS]),
                 Side("put", [BENCH / "coordinator_bench", "put", etcd.address, job, CLIENTS])]
        answers = {side.name: [] for side in sides}
        for number in range(-1, ROUNDS):  # the first turn warms both up
            for side in sides:
                turn += 1
                answer = side.ask(f"{name}-{turn} {TURN}")
                if number >= 0:
                    answers[side.name].append(answer)
        cells = []
        for side, process in zip(sides, (coordinator.process, etcd.process)):
            turn += 1
            syncs = count_syncs(process, lambda: side.ask(f"{name}-{turn} {TURN}"))
            middle = {key: statistics.median([a[key] if key != "seconds" else a[key][0] for a in answers[side.name]])
                      for key in ("seconds", "p50_ms", "p99_ms")}
            cells.append((TURN / middle["seconds"], middle["p50_ms"], middle["p99_ms"], 100 * syncs / TURN))
            side.close()
        rates = " | ".join(f"{rate:.0f} | {p50:.1f} | {p99:.1f} | {syncs:.0f}" for rate, p50, p99, syncs in cells)
        print(f"| {job.stat().st_size / 1024:.1f} KiB, {'8 stages' if name == 'whole' else '1 stage'} | {rates} | "
              f"{cells[0][0] / cells[1][0]:.2f}x |", flush=True)
    etcd.stop()


def fill(coordinator, job):
    side = Side("fill", [BENCH / "coordinator_bench", "submit", coordinator.state, job, CLIENTS])
    side.ask(f"fill {STORED}")
    side.close()


def measure_kills(coordinator, job, workers):
    """Seconds from SIGKILL to the first accepted submit, and to every worker's Welcome; the start is at once."""
    accepted, attached = [], []
    submitter = Side("first", [BENCH / "coordinator_bench", "submit", coordinator.state, job, 1])
    for number in range(ROUNDS):
        killed = time.monotonic()
        coordinator.process.kill()
        coordinator.process.wait()
        coordinator.start()
        accepted.append(submitter.ask(f"first again-{killed:.6f}-{number}")["at"] - killed)
        attached.append(workers.ask(f"welcomed {WORKERS}")["at"] - killed)
        time.sleep(3)
    submitter.close()
    return accepted, attached


def main():
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix="coordinator-bench-") as name:
        folder = pathlib.Path(name)
        kind = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", folder], capture_output=True, text=True).stdout.strip()
        assert kind != "tmpfs", "a sync costs nothing on tmpfs"
        etcd = subprocess.run(["etcd", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
        print(f"{etcd}, {kind}, {TURN} writes a turn, medians of {ROUNDS} turns\n")
        jobs = job_files(folder)
        (folder / "state").mkdir(mode=0o700)
        coordinator = Coordinator(folder)
        measure_submits(folder, coordinator, jobs)
        coordinator.stop()

        for path in sorted((folder / "state").rglob("*"), reverse=True):
            path.unlink() if not path.is_dir() else path.rmdir()
        coordinator = Coordinator(folder)
        print("\n| coordinator | figure |\n|---|---|")
        print(f"| memory, nothing stored | {coordinator.resident_mib():.0f} MiB |")
        fill(coordinator, jobs["whole"])
        print(f"| memory, {STORED:,} jobs of 8 stages queued | {coordinator.resident_mib():.0f} MiB |", flush=True)
        workers = Side("work", [BENCH / "coordinator_bench", "work", coordinator.state, WORKERS, SLOTS])
        workers.ask(f"welcomed {WORKERS}")
        workers.ask(f"ranks {ACTIVE}")
        time.sleep(5)  # beats of all of them are in
        print(f"| memory, of these {ACTIVE:,} active | {coordinator.resident_mib():.0f} MiB |", flush=True)
        accepted, attached = measure_kills(coordinator, jobs["whole"], workers)
        for what, times in (("first accepted submit", accepted), (f"all {WORKERS} workers reattached", attached)):
            print(f"| SIGKILL to {what} | {statistics.median(times):.2f} s, at most {max(times):.2f} s "
                  f"in {len(times)} rounds |")
        print(f"| memory after that | {coordinator.resident_mib():.0f} MiB |")
        workers.close()
        coordinator.stop()


main()
