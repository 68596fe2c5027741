"""How soon a real service notices what dies and goes on, and what a save costs training; from its own event log.

Usage: service_bench.py FOLDER_OF_PROGRAMS [ROUNDS]
Runs examples/shapes/tiny.yaml with a longer last training stage on two workers. What the event log does not tell (the
first step of an attempt) is polled with vlmctl, which takes some hundredths of a second. What saves cost comes from the
phases of 1,000 steps, once with a save every 200 and once every 20 of them: a share says something of its interval
only. Prints a Markdown table.
"""

import datetime
import json
import os
import pathlib
import signal
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/integration/service"))

from service import ENDLESS, Service, alive, steps_done, wait_until  # noqa: E402

BINARIES = pathlib.Path(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
STAGE = "sft"
RETRY = ["--set", "spec.retry=[{on: [crash, worker_lost, peer_lost, hang], limit: unlimited, "
         "backoff: {base: 0s, factor: 1, max: 0s}}]",
         "--set", "spec.stop_if.no_progress_restarts=1000"]
STEPS_WITH_SAVES = 1000
SAVES_EVERY = (200, 20)  # steps; the first as the last stage of examples/shapes/job.yaml has it
PHASES = ("data", "forward", "backward", "communication", "optimizer", "checkpoint")
NO_SUCH_SERIES = 3  # exit code of vlmctl


def events(service, job, kind, since):
    """Moments of the job's or a worker's events of a kind, after a moment of the wall clock."""
    document = json.loads(service.vlmctl("describe", job, "-o", "json").stdout)
    moments = []
    for event in document["events"]:
        if event["kind"] == kind:
            text = event["at"].replace("Z", "+00:00")
            head, _, rest = text.partition(".")
            fraction, zone = rest.split("+") if rest else ("0", text.partition("+")[2])
            at = datetime.datetime.fromisoformat(f"{head.removesuffix('+00:00')}+{zone}").timestamp()
            moments.append(at + float(f"0.{fraction}"))
    return [moment for moment in moments if moment >= since]


def fence(service, job):
    return int(service.stage(job, STAGE).get("fence", 0))


def wait_for_step(service, job, after_fence):
    """Until an attempt behind that fence has done a step of its own; the time of the wall clock."""
    first = {}

    def stepped():
        stage = service.stage(job, STAGE)
        number, done = int(stage.get("fence", 0)), int(stage.get("progress", {}).get("done", 0))
        return number > after_fence and done > first.setdefault(number, done)
    wait_until("a step of a new attempt", stepped)
    return time.time()


def trainer_start(pid):
    """Its start by the wall clock."""
    boot = time.time() - float(pathlib.Path("/proc/uptime").read_text().split()[0])
    ticks = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def living(service):
    return [pid for pid in service.trainers() if alive(pid)]


def first_step(service, job):
    """A new attempt's first step, from the start of its last trainer."""
    before = fence(service, job)
    old = set(living(service))
    os.kill(min(old), signal.SIGKILL)
    at = wait_for_step(service, job, before)
    return at - max(trainer_start(pid) for pid in living(service) if pid not in old)


def dead_trainer(service, job):
    before, killed = fence(service, job), time.time()
    os.kill(min(living(service)), signal.SIGKILL)
    noticed = wait_until("the death is in the log", lambda: events(service, job, "rank.failed", killed) or
                         events(service, job, "attempt.stopping", killed) or events(service, job, "attempt.ended", killed))
    wait_for_step(service, job, before)
    return min(noticed) - killed


def lost_worker(service, job, how):
    """(noticed, next step) of a worker that is killed or stands still; it is there again afterwards."""
    before, victim = fence(service, job), service.worker_of(min(living(service)))
    hit = time.time()
    if how == signal.SIGKILL:
        service.kill(victim)
    else:
        service.processes[victim].send_signal(how)
    noticed = wait_until("the worker is lost", lambda: lost_at(service, job, hit))
    stepped = wait_for_step(service, job, before)
    if how == signal.SIGKILL:
        service.start_worker(int(victim.split("-")[1]))
    else:
        service.processes[victim].send_signal(signal.SIGCONT)
    service.wait_for_workers(2)
    return noticed - hit, stepped - hit


def lost_at(service, job, since):
    """When the attempt began to end because of its worker; None so far."""
    moments = [moment for kind in ("rank.failed", "attempt.fencing", "attempt.stopping", "attempt.ended")
               for moment in events(service, job, kind, since)]
    return min(moments, default=None)


def curve(service, job, series):
    """{step: value}; empty when the stage has measured nothing of the kind so far."""
    done = service.vlmctl("curve", job, series, "--stage", STAGE, "--points", 10000, "-o", "json", check=False)
    assert done.returncode in (0, NO_SUCH_SERIES), done.stderr
    answer = json.loads(done.stdout) if done.returncode == 0 else {}
    return {int(point["step"]): float(point.get("value", 0)) for point in answer.get("points", [])}


def phases_of(service, job):
    """{phase: {step: seconds}} of the first STEPS_WITH_SAVES steps; None until all have been told."""
    phases = {}
    for name in PHASES:
        points = curve(service, job, f"step_seconds_{name}")
        phases[name] = {step: seconds for step, seconds in points.items() if step <= STEPS_WITH_SAVES}
        if len(phases[name]) < STEPS_WITH_SAVES:
            return None
    return phases


def row(what, values, unit="s"):
    print(f"| {what} | {statistics.median(values):.2f} {unit} | {max(values):.2f} {unit} | {len(values)} |", flush=True)


def measure_saves():
    """As many steps apart as in the demo, of a model that is smaller and whose steps are shorter; and a tenth of that.
    The share is of all the time that training's steps took, the longest pause is of one step."""
    for every in SAVES_EVERY:
        with Service(BINARIES) as service:
            job = service.submit(*ENDLESS, "--set", f"spec.stages[{STAGE}].checkpoint.every={every} steps")
            wait_until("enough saves are done", lambda: steps_done(service, job, STAGE) > STEPS_WITH_SAVES)
            phases = wait_until("every step is in the curves", lambda: phases_of(service, job))
            skipped = sum(step <= STEPS_WITH_SAVES for step in curve(service, job, "checkpoint_skipped"))
            service.vlmctl("cancel", job)
        total = sum(sum(points.values()) for points in phases.values())
        pauses = phases["checkpoint"].values()
        saves = STEPS_WITH_SAVES // every - skipped
        print(f"| pause of training for a save every {every} steps, {total * every / STEPS_WITH_SAVES:.2f} s apart | "
              f"{100 * sum(pauses) / total:.2f} % | {1e3 * max(pauses):.1f} ms | {saves} saves, {skipped} skipped |",
              flush=True)


def main():
    print("| what | median | at most | rounds |\n|---|---|---|---|")
    with Service(BINARIES) as service:
        job = service.submit(*ENDLESS, *RETRY)
        wait_until("the last training stage trains", lambda: steps_done(service, job, STAGE) > 0)
        row("first step after the trainer starts", [first_step(service, job) for _ in range(ROUNDS)])
        row("dead trainer noticed", [dead_trainer(service, job) for _ in range(ROUNDS)])
        silent = [lost_worker(service, job, signal.SIGSTOP) for _ in range(ROUNDS)]
        killed = [lost_worker(service, job, signal.SIGKILL) for _ in range(ROUNDS)]
        row("silent worker noticed", [noticed for noticed, _ in silent])
        row("worker killed, noticed", [noticed for noticed, _ in killed])
        row("worker killed to next step", [stepped for _, stepped in killed])
        service.vlmctl("cancel", job)
    measure_saves()


main()
