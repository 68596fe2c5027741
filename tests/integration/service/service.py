"""A real service for tests: coordinator and workers as processes on loopback, in a folder of its own."""
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
    def __init__(self, binaries, workers=2):
        self.bin = pathlib.Path(binaries)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vlm-service-"))
        for name in ("artifacts", "data"):
            (self.folder / name).mkdir()
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
        self.processes[name] = subprocess.Popen([str(a) for a in arguments], stdout=log, stderr=log)

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

    def start_worker(self, number):
        self.spawn(f"worker-{number}", self.bin / "vlm-worker", "--coordinator", self.where["address"], "--token-file",
                   self.folder / "coordinator/worker.token", "--state-dir", self.folder / f"worker-{number}",
                   "--cpu-slots", 1, "--threads-per-slot", 1, "--data-root", self.folder / "data",
                   "--artifact-root", self.folder / "artifacts", "--metrics-address", "127.0.0.1:0")

    def kill(self, name, how=signal.SIGKILL):
        self.processes[name].send_signal(how)
        self.processes[name].wait()
        del self.processes[name]

    def vlmctl(self, *arguments, check=True):
        done = subprocess.run([str(self.bin / "vlmctl"), "--state-dir", str(self.folder / "coordinator"),
                               *[str(a) for a in arguments]], capture_output=True, text=True,
                              timeout=DEADLINE_S + 30)
        if check and done.returncode != 0:
            raise AssertionError(f"vlmctl {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

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

    def artifact(self, job_id, stage):
        return pathlib.Path(self.stage(job_id, stage)["artifact_folder"])

    def trainers(self, of="worker"):
        """Process ids of the children of the workers whose names begin so."""
        parents = {p.pid for name, p in self.processes.items() if name.startswith(of)}
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) in parents:
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
        return found

    def scrape(self, address=None):
        address = address or self.where["metrics_address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return answer.read().decode()


def weights(folder):
    """The bytes of what a training stage learned."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
