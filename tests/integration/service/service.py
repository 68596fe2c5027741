"""A real service for tests: coordinator and workers as processes on loopback, in a folder of its own, and what every
file of cases needs."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
TINY = ROOT / "examples/shapes/tiny.yaml"
DEADLINE_S = 240
LONGER_STEPS = 3000  # a minute here; time enough to disturb something twice on a machine ten times as fast
LONGER = ["--set", f"spec.stages[sft].train.steps={LONGER_STEPS}",
          "--set", "spec.stages[sft].checkpoint.every=20 steps"]
ENDLESS = [*LONGER, "--set", "spec.stages[sft].train.steps=1000000"]  # for what is cancelled


def wait_until(what, condition, deadline_s=DEADLINE_S):
    """Polls until `condition` gives something true, and returns it."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Service:
    """`worker_options` go to every worker. With `crash_points` (README.md), set_point sets one."""

    def __init__(self, binaries, workers=2, worker_options=(), crash_points=False):
        self.bin = pathlib.Path(binaries)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vlm-service-"))
        self.points = self.folder / "points"
        for name in ("artifacts", "data", "points"):
            (self.folder / name).mkdir()
        self.worker_options = list(worker_options)
        self.environment = {**os.environ, "VLM_CRASH_POINTS": str(self.points) if crash_points else ""}
        self.processes = {}
        try:
            self.start_coordinator()
            for number in range(workers):
                self.start_worker(number)
            self.wait_for_workers(workers)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def wait_for_workers(self, count):
        wait_until(f"{count} workers are live",
                   lambda: self.vlmctl("node", "list").stdout.count(" live ") == count)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if kind is None:
            shutil.rmtree(self.folder)
        else:
            print(f"kept for a look: {self.folder}")
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}")

    def spawn(self, name, *arguments):
        log = open(self.folder / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen([str(a) for a in arguments], stdout=log, stderr=log,
                                                env=self.environment)

    def start_coordinator(self, address="127.0.0.1:0"):
        where = self.folder / "coordinator/coordinator.json"
        before = where.stat().st_mtime_ns if where.exists() else 0
        self.spawn("coordinator", self.bin / "vlm-coordinator", "--address", address, "--metrics-address",
                   "127.0.0.1:0", "--state-dir", self.folder / "coordinator", "--artifact-root",
                   self.folder / "artifacts")
        coordinator = self.processes["coordinator"]

        def serves():
            assert coordinator.poll() is None, (self.folder / "coordinator.log").read_text()
            return where.exists() and where.stat().st_mtime_ns > before
        wait_until("the coordinator serves", serves)
        self.where = json.loads(where.read_text())

    def start_worker(self, number, coordinator=None):
        """`coordinator` is the address it calls, when that is not the coordinator's own."""
        self.spawn(f"worker-{number}", self.bin / "vlm-worker", "--coordinator", coordinator or self.where["address"],
                   "--token-file", self.folder / "coordinator/worker.token",
                   "--state-dir", self.folder / f"worker-{number}",
                   "--cpu-slots", 1, "--threads-per-slot", 1, "--data-root", self.folder / "data",
                   "--artifact-root", self.folder / "artifacts", "--metrics-address", "127.0.0.1:0",
                   *self.worker_options)

    def kill(self, *names, how=signal.SIGKILL):
        """All of them before the first is waited for."""
        for name in names:
            self.processes[name].send_signal(how)
        for name in names:
            self.processes.pop(name).wait()

    def set_point(self, name, action, occurrence=1):
        """From now on the process that passes the crash point for the occurrence-th time does what `action` says."""
        assert self.environment["VLM_CRASH_POINTS"], "this service was started without crash points"
        (self.folder / "point").write_text(f"{action} {occurrence}\n")
        (self.folder / "point").rename(self.points / name)

    def reached(self, name):
        """The process that reached the point, once; None until then."""
        for path in self.points.glob(f"{name}.reached.*"):
            path.unlink()
            return int(path.name.rsplit(".", 1)[1])
        return None

    def unset_points(self):
        for path in self.points.iterdir():
            path.unlink()

    def vlmctl(self, *arguments, check=True):
        done = subprocess.run([str(self.bin / "vlmctl"), "--state-dir", str(self.folder / "coordinator"),
                               *[str(a) for a in arguments]], capture_output=True, text=True,
                              timeout=DEADLINE_S + 30)
        if check and done.returncode != 0:
            raise AssertionError(f"vlmctl {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def start_vlmctl(self, *arguments):
        """One in the background, ended with the service at the latest."""
        self.spawn("vlmctl", self.bin / "vlmctl", "--state-dir", self.folder / "coordinator", *arguments)
        return self.processes["vlmctl"]

    def submit(self, *arguments, job=TINY):
        return self.vlmctl("submit", job, "-q", *arguments).stdout.strip()

    def job(self, job_id):
        answer = json.loads(self.vlmctl("get", job_id, "-o", "json").stdout)
        return answer.get("job", answer)

    def stage(self, job_id, name):
        return next(stage for stage in self.job(job_id)["stages"] if stage["name"] == name)

    def wait(self, job_id):
        done = self.vlmctl("wait", job_id, "--timeout", f"{DEADLINE_S}s", check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.vlmctl('describe', job_id).stdout}"
        return self.job(job_id)

    def nodes(self):
        return json.loads(self.vlmctl("node", "list", "-o", "json").stdout)["nodes"]

    def steps(self, job_id):
        """Every checkpoint of the job, as the catalog has it."""
        return json.loads(self.vlmctl("checkpoint", "list", job_id, "-o", "json").stdout).get("steps", [])

    def artifact(self, job_id, stage):
        return pathlib.Path(self.stage(job_id, stage)["artifact_folder"])

    def trainers(self, of="worker"):
        """Process ids of the children of the workers whose names begin so."""
        parents = {p.pid for name, p in self.processes.items() if name.startswith(of)}
        return [int(entry.name) for entry in pathlib.Path("/proc").iterdir()
                if entry.name.isdigit() and process_stat(int(entry.name))[1] in parents]

    def worker_of(self, trainer):
        """The name of the worker that started this process."""
        parent = process_stat(trainer)[1]
        return next(name for name, process in self.processes.items() if process.pid == parent)

    def scrape(self, address=None):
        address = address or self.where["metrics_address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return answer.read().decode()


def process_stat(pid):
    """(state, parent) of a process; ("", 0) when there is none."""
    try:
        state, parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
        return state, int(parent)
    except (OSError, IndexError):
        return "", 0


def alive(pid):
    """A zombie, whose parent has yet to look, is not."""
    return process_stat(pid)[0] not in ("", "Z", "X")


def weights(folder):
    """The bytes of what a training stage learned."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def steps_done(service, job, stage="sft"):
    return int(service.stage(job, stage).get("progress", {}).get("done", 0))


def complete_steps(service, job, world=2, stage="sft"):
    """Numbers of the stage's complete checkpoints of that many ranks, ascending."""
    return sorted(int(one["step"]) for one in service.steps(job) if one["stage"] == stage and one["world"] == world
                  and one["state"] == "STEP_STATE_COMPLETE")


def measured(what, since):
    """For the tables of soak.py; never decides a test. `since`: time.monotonic() at the failure."""
    print(f"measured: {what}: {time.monotonic() - since:.2f} s", flush=True)


def run_case(cases):
    """main() of a file of cases: FILE CASE BINARIES [more]."""
    case, binaries = sys.argv[1:3]
    cases[case](binaries)
