"""Damaged checkpoints, full disks, numbers that are not finite, places that are taken: what is said, and that nothing is
lost. Usage: bad_state_test.py CASE BINARIES"""
import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import tempfile
import time

from service import DEADLINE_S, Service, complete_steps, measured, run_case, wait_until, weights

STEPS = 1000
SETTINGS = ["--set", f"spec.stages[sft].train.steps={STEPS}", "--set", "spec.stages[sft].checkpoint.every=20 steps"]
NOT_PERMITTED = 77  # the exit code of a case that cannot run here; CTest counts it as skipped


def damage_is_named_and_fallen_back_from(binaries):
    """A byte of the newest checkpoint is flipped while no trainer runs: file and chunk are named, the service finds the
    damage too, the stage goes on from the step before and learns the weights of an undisturbed run."""
    with Service(binaries) as service:
        job = service.submit(*SETTINGS)
        wait_until("two checkpoints of sft", lambda: len(complete_steps(service, job)) >= 2)
        service.kill("worker-0", "worker-1")
        before = complete_steps(service, job)
        newest = next(one for one in service.steps(job) if one["stage"] == "sft" and int(one["step"]) == before[-1])
        assert before[-1] < STEPS, "too few steps for this test"
        path = pathlib.Path(newest["folder"]) / "llm.safetensors"
        with open(path, "r+b") as file:
            file.seek(-100, 2)
            byte = file.read(1)[0]
            file.seek(-100, 2)
            file.write(bytes([byte ^ 0x20]))
        since = time.monotonic()
        for number in (0, 1):
            service.start_worker(number)
        wait_until("the attempt that meets the damage has ended",
                   lambda: int(service.stage(job, "sft").get("restarts", 0)) >= 2)
        measured("workers back, the attempt that met the damage has ended", since)
        done = service.wait(job)
        sft = next(stage for stage in done["stages"] if stage["name"] == "sft")
        assert sft["state"] == "STAGE_STATE_SUCCEEDED" and int(sft["restarts"]) == 2, sft
        told = (service.folder / "coordinator.log").read_text()
        ended = [line for line in told.splitlines() if f"cannot resume from step {before[-1]}" in line]
        assert ended, told[-4000:]
        for words in (str(path), "chunk 0 (bytes 0 to ", "resumes from the step before", "damaged_checkpoint"):
            assert any(words in line for line in ended), (words, ended)
        damaged = [one for one in service.steps(job) if one["folder"] == newest["folder"]]
        for one in damaged:  # unless retention has removed it meanwhile
            assert one["state"] == "STEP_STATE_DAMAGED" and "llm.safetensors, chunk 0" in one["damage"], one
        resumed = [line for line in told.splitlines() if f"step {before[-2]}" in line]
        assert resumed, "nothing tells the step that was resumed from"
        disturbed = weights(service.artifact(job, "sft"))
    with Service(binaries) as service:
        job = service.submit(*SETTINGS)
        service.wait(job)
        assert weights(service.artifact(job, "sft")) == disturbed


def a_diverging_stage_fails_as_numeric(binaries):
    """A learning rate that makes everything infinite: steps are skipped, then the stage fails once, as `numeric`, with
    the step and what to do; nothing is tried again."""
    with Service(binaries) as service:
        settings = {"train.steps": 200, "train.lr": 100, "train.optimizer.weight_decay": 10}
        job = service.submit("--set", "spec.stop_if.nonfinite_steps=5", *[
            word for name, value in settings.items() for word in ("--set", f"spec.stages[pretrain].{name}={value}")])
        since = time.monotonic()
        ended = service.vlmctl("wait", job, "--timeout", f"{DEADLINE_S}s", check=False)
        measured("from the submit to the job's failure", since)
        assert ended.returncode == 1, ended
        pretrain = service.stage(job, "pretrain")
        assert pretrain["state"] == "STAGE_STATE_FAILED" and int(pretrain.get("restarts", 0)) == 0, pretrain
        told = service.vlmctl("describe", job).stdout
        found = re.search(r"6 steps in a row had a loss or gradient that is not finite, the last one step (\d+); lower "
                          r"the learning rate", told)
        assert found and "no retry after numeric" in told, told
        curve = service.vlmctl("logs", job, "--stage", "pretrain").stdout
        last = int(found.group(1))
        skipped = [int(step) for step in re.findall(r"^step (\d+)/200 loss .* skipped: not finite$", curve, re.M)]
        assert last > 6 and skipped == list(range(last - 5, last + 1)), (last, curve)
        assert service.stage(job, "sft")["state"] == "STAGE_STATE_UPSTREAM_FAILED"


def places_have_one_holder(binaries):
    """A second coordinator on one state folder, ports that are taken, a second worker on one folder: each says who or
    what is in the way, and the first goes on."""
    with Service(binaries, workers=1) as service, tempfile.TemporaryDirectory(prefix="vlm-second-") as other:
        def second(*arguments):
            since = time.monotonic()
            done = subprocess.run([str(service.bin / "vlm-coordinator"), "--artifact-root", other, *map(str, arguments)],
                                  capture_output=True, text=True, timeout=60)
            measured("refused", since)
            assert done.returncode == 1, done
            return done.stderr

        state = service.folder / "coordinator"
        told = second("--state-dir", state)
        pid = service.processes["coordinator"].pid
        assert f"database is in use by another process (pid {pid}); stop it or choose another state folder" in told, told
        assert str(state) in told, told
        address, metrics = service.where["address"], service.where["metrics_address"]
        told = second("--state-dir", f"{other}/state", "--address", address)
        assert f"cannot listen on port {address.rsplit(':', 1)[1]} " in told and "choose another port" in told, told
        told = second("--state-dir", f"{other}/state", "--metrics-address", metrics)
        assert f"metrics address cannot be listened on; is another program there? {metrics}" in told, told
        worker = subprocess.run(
            [service.bin / "vlm-worker", "--coordinator", address, "--token-file", state / "worker.token", "--state-dir",
             service.folder / "worker-0", "--cpu-slots", "1", "--artifact-root", service.folder / "artifacts"],
            capture_output=True, text=True, timeout=60)
        told = worker.stdout + worker.stderr
        assert worker.returncode == 70 and "another worker uses the state folder" in told, worker
        assert f"process {service.processes['worker-0'].pid};" in told, told
        assert service.vlmctl("node", "list").stdout.count(" live ") == 1
        service.wait(service.submit("--set", "spec.stages[sft].train.steps=2"))


class SmallDiskService(Service):
    """A coordinator whose state folder lies on a disk of its own, in memory."""

    def __init__(self, binaries, options, disk_bytes):
        self.options, self.disk_bytes = options, disk_bytes
        super().__init__(binaries, workers=0)

    def spawn(self, name, *arguments):
        state = self.folder / "coordinator"
        if name == "coordinator" and not state.exists():
            state.mkdir(mode=0o700)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.disk_bytes}", "tmpfs", state], check=True)
        super().spawn(name, *arguments, *(self.options if name == "coordinator" else ()))

    def __exit__(self, kind, value, trace):
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()
        subprocess.run(["umount", "--lazy", self.folder / "coordinator"], check=False)
        super().__exit__(kind, value, trace)

    def fill(self, leave):
        """Writes a file until no more than so many bytes are free, whatever the databases reserve meanwhile."""
        disk = self.folder / "coordinator"

        def free():
            info = os.statvfs(disk)
            return info.f_bavail * info.f_frsize
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
            while free() > leave:
                file.write(b"x" * min(1 << 20, free() - leave))


def may_mount():
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
        if tried.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return tried.returncode == 0


JOB = """
apiVersion: vlm/v1
kind: TrainingJob
metadata: {{name: job-{number}}}
spec:
  stages:
    - name: tokenizer
      kind: tokenizer
      data: {{text: [{paths}]}}
      tokenizer: {{vocab_size: 320}}
"""


def large_job(number):
    """A job file of 0.7 MB that does not compress."""
    random_bytes = random.Random(number).randbytes
    return JOB.format(number=number, paths=", ".join(f"{random_bytes(1500).hex()}.jsonl" for _ in range(240)))


def a_full_disk_of_the_coordinator_loses_no_job(binaries):
    """Below the floor jobs are refused and the rest goes on. Without a floor the disk fills up in the middle of a commit:
    the coordinator leaves with 74, and the next start, with the reserve given up, has every job that was acknowledged."""
    if not may_mount():
        print("skipped: no tmpfs may be mounted here")
        raise SystemExit(NOT_PERMITTED)
    options = ["--free-space-floor", str(24 << 20), "--ballast-bytes", str(16 << 20)]
    with SmallDiskService(binaries, options, 96 << 20) as service:
        def submit(number):
            path = service.folder / "job.yaml"
            path.write_text(large_job(number))
            return service.vlmctl("submit", path, "-q", check=False)

        def names():
            return {job["name"] for job in json.loads(service.vlmctl("list", "-o", "json").stdout).get("jobs", [])}

        disk = service.folder / "coordinator"
        assert (disk / "ballast").exists()
        acknowledged = set()
        first = submit(0)
        assert first.returncode == 0, first
        acknowledged.add("job-0")
        service.fill(leave=12 << 20)
        refused = submit(1)
        told = refused.stdout + refused.stderr
        assert refused.returncode != 0 and "no new jobs while the coordinator's disk is nearly full" in told, refused
        assert str(disk) in told and "free space on it" in told, told
        service.vlmctl("cancel", first.stdout.strip())
        assert names() == acknowledged

        service.kill("coordinator")
        (disk / "filler").unlink()
        service.options = ["--free-space-floor", "0", "--ballast-bytes", str(16 << 20)]
        service.start_coordinator()
        service.fill(leave=6 << 20)
        coordinator = service.processes["coordinator"]
        number = 1
        while coordinator.poll() is None and number < 200:
            (service.folder / "job.yaml").write_text(large_job(number))
            with subprocess.Popen([service.bin / "vlmctl", "--state-dir", disk, "submit", service.folder / "job.yaml"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
                while client.poll() is None and coordinator.poll() is None:
                    time.sleep(0.02)
                client.kill()  # it would wait for the coordinator to come back
            if client.returncode == 0:
                acknowledged.add(f"job-{number}")
            number += 1
        assert coordinator.wait(60) == 74, coordinator.returncode
        log = (service.folder / "coordinator.log").read_text()
        assert "the store failed; leaving" in log and "No space left" in log, log[-2000:]
        assert len(acknowledged) > 1, "the disk was full before the first"

        service.options = options
        since = time.monotonic()
        service.start_coordinator()
        measured("started again with the reserve given up", since)
        assert not (disk / "ballast").exists(), "it was given up"
        assert acknowledged <= names(), acknowledged - names()
        assert submit(number).returncode != 0, "still below the floor"
        (disk / "filler").unlink()
        assert submit(number).returncode == 0
        assert service.job(first.stdout.strip())["state"] == "JOB_STATE_CANCELLED"


run_case(globals())
