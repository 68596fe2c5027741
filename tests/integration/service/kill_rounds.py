"""Rounds of SIGKILL on the small job: every victim, at random moments and at named places, with a seed.

A round is one victim: a trainer, a worker, the coordinator, or all of them at once. It runs the job, kills, starts
again what a person would, and goes on until every kill of its plan is done; a job that ends before is followed by
another.
After each kill and at each job's end it looks for what was lost and for what is half done. Where the coordinator dies,
other jobs are submitted just before.
"""
import collections
import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import threading
import time

from service import Service, alive, process_stat, wait_until, weights

# README.md says where each of them is.
SAVE = ["save.file_written", "save.file_renamed", "save.file_done", "save.part_done", "commit.parts", "commit.checked",
        "commit.stored"]
END = ["rank.done", "result.known", "result.stored", "publish.asked", "publish.answered"]
VICTIMS = ["trainer", "worker", "coordinator", "everything"]
TRAINED = ["pretrain", "align", "sft"]
ASK_AGAIN_S = 0.1
GONE = (3, 9)  # exit codes of vlmctl: no such step, or one that is being deleted
FINAL = {"STAGE_STATE_SUCCEEDED", "STAGE_STATE_REUSED"}

# As many restarts as there are kills, at once: what is shown is that nothing is lost, not when the service gives up.
JOB = ["--set", "spec.stages[sft].train.steps=300", "--set", "spec.stages[sft].checkpoint.every=10 steps",
       "--set", "spec.stages[pretrain].train.steps=40",
       "--set", "spec.retry=[{on: [crash, storage, hang, start_timeout, worker_lost, peer_lost], limit: unlimited}]",
       "--set", "spec.stop_if.no_progress_restarts=1000"]


# More ranks than there are slots: it is queued, takes nothing from the round's job and holds up none of its stages.
WAITING_JOB = """\
apiVersion: vlm/v1
kind: TrainingJob
metadata: {name: waiting}
spec:
  ranks: {min: 64}
  stages: [{name: pictures, kind: generate, generate: {splits: [{name: captions, samples: 1}]}}]
"""
ANSWERS_S = 90  # vlmctl itself gives up after a minute


@dataclasses.dataclass
class Kill:
    place: str  # "random", "save" or "end"
    point: str = ""  # of "random" none
    occurrence: int = 1
    after_s: float = 0  # of "random"


@dataclasses.dataclass
class Result:
    """What came of one kill."""
    victim: str
    kill: Kill
    recovered_s: float  # until the job was seen to be further than before


def owner(point):
    """The kind of process that passes a point."""
    return {"save": "trainer", "rank": "trainer", "result": "worker"}.get(point.split(".")[0], "coordinator")


def end_points(victim):
    """When a rank's result is known or published, its process is gone already."""
    return ["rank.done"] if victim == "trainer" else END


def make_plan(victim, rng, points_each=None):
    """Ends of stages come first, since each stage has one; all points, or `points_each` of each place."""
    def chosen(points):
        return rng.sample(points, min(len(points), points_each or len(points)))
    plan = [Kill("random", after_s=rng.uniform(0, 2.5))]
    plan += [Kill("end", point) for point in chosen(end_points(victim))]
    plan += [Kill("save", point, rng.randint(1, 6) if point.startswith("save.file") else rng.randint(1, 2))
             for point in chosen(SAVE)]
    plan += [Kill("random", after_s=rng.uniform(0, 2.5))]
    return plan


def undisturbed(binaries):
    """The weights that every job must end with."""
    with Service(binaries) as service:
        job = service.submit(*JOB)
        service.wait(job)
        return {stage: weights(service.artifact(job, stage)) for stage in TRAINED}


class Snapshot:
    """What the service has acknowledged of a job."""

    def __init__(self, service, job):
        self.stages = {stage["name"]: stage for stage in service.job(job)["stages"]}
        self.committed = collections.Counter()
        for step in service.steps(job):
            if step["state"] == "STEP_STATE_COMPLETE":
                self.committed[step["stage"]] = max(self.committed[step["stage"]], int(step["step"]))

    def finals(self):
        return {name: stage["artifact_digest"] for name, stage in self.stages.items() if stage["state"] in FINAL}

    def check_nothing_lost(self, before):
        assert before.finals().items() <= self.finals().items(), (before.finals(), self.finals())
        for stage, step in before.committed.items():
            assert self.committed[stage] >= step, f"{stage} had committed step {step}, has {self.committed[stage]}"
        for name, stage in before.stages.items():
            assert int(self.stages[name].get("fence", 0)) >= int(stage.get("fence", 0)), (name, stage)

    def further_than(self, *others):
        """A stage has ended, or done more than in all of these, whatever the attempt."""
        return all(len(self.finals()) > len(other.finals()) for other in others) or any(
            all(steps_of(stage) > steps_of(other.stages[name]) for other in others)
            for name, stage in self.stages.items())


class LatestSnapshot:
    """Asks again and again, beside the test, while the coordinator answers: what stands still can no more be asked."""

    def __init__(self, service, job):
        self.service, self.job, self.stopped, self.failed = service, job, False, None
        self.latest = Snapshot(service, job)
        self.thread = threading.Thread(target=self.ask, daemon=True)
        self.thread.start()

    def ask(self):
        while not self.stopped:
            try:
                asked = Snapshot(self.service, self.job)
            except (AssertionError, subprocess.TimeoutExpired) as error:  # it is gone, or it failed
                self.failed = self.failed or (None if self.stopped else error)
                return
            if not self.stopped:  # else the answer may be one of the time after the kill
                self.latest = asked
            time.sleep(ASK_AGAIN_S)  # the job runs on the same cores

    def stop(self):
        """The last answer. A question that is open now may stay so until the coordinator is back: then comes end()."""
        self.stopped = True
        return self.latest

    def end(self):
        self.stop()
        self.thread.join()
        if self.failed:
            raise self.failed


def commits_told(service, job):
    """The last step of each stage that the coordinator has told some rank to be committed, as ranks have printed."""
    told = collections.Counter()
    for log in [*service.folder.glob("worker-*/logs/*/*"), *service.folder.glob(f"coordinator/logs/{job}/*/*/*")]:
        try:
            text = log.read_bytes().decode(errors="replace")
        except OSError:  # shipped and removed meanwhile
            continue
        stage = re.search(r"^([^:\s]+): \d+ steps, rank \d+ of ", text, re.M)
        steps = re.findall(r"^checkpoint of step (\d+) committed$", text, re.M)
        if stage and steps:
            told[stage[1]] = max(told[stage[1]], *map(int, steps))
    return told


class Submits:
    """Jobs that are submitted just before a kill of the coordinator: each that was acknowledged is there afterwards,
    none is there that nobody has submitted, and a request that is sent again is the same job."""

    def __init__(self, service, round_job, rng):
        self.service, self.round_job, self.rng = service, round_job, rng
        self.file = service.folder / "waiting.yaml"
        self.file.write_text(WAITING_JOB)
        self.jobs = {}  # request id -> job, of all that have been acknowledged
        self.cancelled = set()
        self.begun = None  # the request id of the one that begin() has sent
        self.took_s = 0  # by the last one, from its start to its answer

    def arguments(self, request):
        return ["submit", str(self.file), "-q", "--request-id", request]

    def new_request(self):
        return f"request-{self.rng.getrandbits(64):016x}"

    def start(self, name, request, delay_s=0):
        """Ended with the service at the latest."""
        self.service.processes[name] = subprocess.Popen(
            ["sh", "-c", f'sleep {delay_s:.3f}; exec "$@"', "submit", str(self.service.bin / "vlmctl"), "--state-dir",
             str(self.service.folder / "coordinator"), *self.arguments(request)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self.service.processes[name]

    def acknowledge(self):
        """One more, until its answer is there: a kill now comes as soon after it as one can."""
        request, since = self.new_request(), time.monotonic()
        submit = self.start("acknowledged", request)
        self.jobs[request] = submit.stdout.readline().strip()
        self.took_s = time.monotonic() - since
        assert self.jobs[request], submit.communicate()

    def begin(self, at_once=False):
        """One more, which a kill within about took_s meets on its way there, inside, or on its way back."""
        self.begun = self.new_request()
        self.start("begun", self.begun, delay_s=0 if at_once else self.rng.uniform(0, self.took_s))

    def check(self):
        """After the kill. Cancels what waits."""
        if self.begun is None:
            return
        self.service.processes.pop("acknowledged").communicate(timeout=ANSWERS_S)
        submit = self.service.processes.pop("begun")
        printed, told = submit.communicate(timeout=ANSWERS_S)
        assert submit.returncode == 0, (submit.returncode, printed, told)
        self.jobs[self.begun] = printed.strip()
        self.begun = None
        self.check_listed()
        for request, job in self.jobs.items():
            if job not in self.cancelled:
                again = self.service.vlmctl(*self.arguments(request)).stdout.strip()
                assert again == job, f"{request} was acknowledged as {job}; sent again, it is {again}"
                self.service.vlmctl("cancel", job)
                self.cancelled.add(job)

    def check_listed(self):
        listed = json.loads(self.service.vlmctl("list", "-o", "json").stdout)["jobs"]
        found, known = sorted(job["job_id"] for job in listed), sorted([self.round_job, *self.jobs.values()])
        assert found == known, f"acknowledged are {known}, listed {found}"
        states = {job["job_id"]: job["state"] for job in listed}
        assert all(states[job] == "JOB_STATE_CANCELLED" for job in self.cancelled), (self.cancelled, states)


def steps_of(stage):
    return int(stage.get("progress", {}).get("done", 0))


class JobEnd:
    """Knows when a job has ended, also while the coordinator cannot be asked."""

    def __init__(self, service, job):
        self.service, self.job = service, job
        self.waiter = service.start_vlmctl("wait", job, "--timeout", "1h")

    def __call__(self):
        if self.waiter.poll() is None:
            return False
        assert self.waiter.returncode == 0, self.service.vlmctl("describe", self.job).stdout
        return True


class Round:
    def __init__(self, binaries, victim, seed, points_each=None):
        self.binaries, self.victim = binaries, victim
        self.rng = random.Random(f"{seed} {victim}")
        self.submits_rng = random.Random(f"{seed} {victim} submits")
        self.plan = collections.deque(make_plan(victim, self.rng, points_each))
        self.results = []
        self.submits = None  # of this job's service, where the coordinator dies
        self.before = None  # what was acknowledged the last time that it was asked before a kill
        self.asking = None  # a LatestSnapshot from before a kill until what it asks is back
        self.events = []  # of this job, as they were told after the last kill

    def run(self, reference):
        while self.plan:
            with Service(self.binaries, crash_points=True) as service:
                job = service.submit(*JOB)
                ended = JobEnd(service, job)
                if self.victim in ("coordinator", "everything"):
                    self.submits = Submits(service, job, self.submits_rng)
                self.events = []
                while self.plan and self.strike(service, job, ended):
                    self.plan.popleft()
                service.unset_points()
                service.wait(job)
                self.check_events(service, job)
                if self.submits:
                    self.submits.check_listed()
                check_job(service, job, reference)
        return self.results

    def strike(self, service, job, ended):
        """The plan's next kill: kills, restores, checks. False when the job ended before."""
        kill = self.plan[0]
        trains = kill.place != "save"
        while not trains and not ended():
            trains = any(service.stage(job, name)["state"] == "STAGE_STATE_ACTIVE" for name in TRAINED)
        if ended():
            return False
        self.before = Snapshot(service, job)
        killed = (self.kill_at_random if kill.place == "random" else self.kill_at_point)(service, job, kill, ended)
        if killed is None:
            self.end_asking()
            return False
        killed_at = time.monotonic()
        # The job goes on with the other worker alone, or once this one is back.
        late = len(killed) == 1 and killed[0].startswith("worker") and self.rng.random() < 0.5
        if not late:
            restore(service, killed)
        self.end_asking()
        after = Snapshot(service, job)
        after.check_nothing_lost(self.before)
        wait_until(f"the job moves after {kill}",
                   lambda: ended() or Snapshot(service, job).further_than(self.before, after))
        self.results.append(Result(self.victim, kill, time.monotonic() - killed_at))
        print(f"  {self.victim:12} {kill.place:7} {kill.point or f'after {kill.after_s:.1f} s':18} "
              f"moves again after {self.results[-1].recovered_s:.1f} s", flush=True)
        if late:
            restore(service, killed)
        if self.submits:
            self.submits.check()
        self.check_events(service, job)
        return True

    def check_events(self, service, job):
        """What was told once is told again, in the same order and words."""
        events = json.loads(service.vlmctl("describe", job, "-o", "json").stdout)["events"]
        assert events[:len(self.events)] == self.events, f"events are lost or changed:\n{self.events}\n{events}"
        self.events = events

    def kill_at_random(self, service, job, kill, ended):
        """The names of the processes that are gone; None when the job ended before."""
        time.sleep(kill.after_s)
        killed = None
        while killed is None and not ended():
            if self.victim == "trainer":
                wait_until("a trainer runs", lambda: ended() or living_trainers(service))
            self.before = Snapshot(service, job)
            if self.submits:
                self.submits.begin()
                self.submits.acknowledge()
            killed = self.kill_now(service)
        return killed

    def kill_at_point(self, service, job, kill, ended):
        """Waits until the point is reached, where its process stands still, and kills from outside: so what was
        acknowledged is known as it is at that point, whoever reached it."""
        if owner(kill.point) == "coordinator":
            self.asking = LatestSnapshot(service, job)
            if self.submits:  # at the point it can acknowledge no more
                self.submits.acknowledge()
        service.set_point(kill.point, "freeze", kill.occurrence)
        pid = wait_until(f"{kill.point} is reached", lambda: service.reached(kill.point) or (ended() and -1))
        if pid == -1:
            service.unset_points()
            self.end_asking()
            return None
        wait_until("its process stands still", lambda: process_stat(pid)[0] in ("T", ""), deadline_s=20)
        self.before = self.asking.stop() if self.asking else Snapshot(service, job)
        self.before.committed |= commits_told(service, job)  # the larger of both, for each stage
        if owner(kill.point) == "trainer":
            check_no_half_step(service, job)
        if self.submits:
            if owner(kill.point) == "coordinator":
                self.submits.begin(at_once=True)
                time.sleep(self.submits.took_s)  # the request is sent, and waits with the process
            else:
                self.submits.begin()
                self.submits.acknowledge()
        killed = self.kill_now(service, pid)
        with contextlib.suppress(ProcessLookupError):  # it is the victim, or a trainer that is gone with its worker
            os.kill(pid, signal.SIGCONT)
        return killed

    def end_asking(self):
        if self.asking:
            self.asking.end()
        self.asking = None

    def kill_now(self, service, at_point=0):
        """The names of the processes that are gone, other than trainers; `at_point` is the one that stands at the
        point. None when the victim is a trainer and all have ended by themselves."""
        if self.victim == "trainer":
            living = living_trainers(service)
            try:
                os.kill(at_point if at_point in living else self.rng.choice(living), signal.SIGKILL)
            except (IndexError, ProcessLookupError):
                return None
            return []
        killed = ["coordinator"]
        if self.victim == "worker":
            workers = {process.pid: name for name, process in service.processes.items() if name.startswith("worker")}
            killed = [workers.get(at_point) or workers.get(process_stat(at_point)[1]) or
                      self.rng.choice(sorted(workers.values()))]
        elif self.victim == "everything":
            killed = sorted(name for name in service.processes if name.startswith(("coordinator", "worker")))
        service.kill(*killed)
        return killed


def living_trainers(service):
    return sorted(pid for pid in service.trainers() if alive(pid))


def restore(service, names):
    """Starts again what was killed, the coordinator first."""
    if "coordinator" in names:
        service.start_coordinator(service.where["address"])
    for name in names:
        if name.startswith("worker"):
            service.start_worker(int(name.split("-")[1]))


def check_no_half_step(service, job):
    """In the middle of a save: every step that is called complete is whole."""
    for step in complete(service, job):
        verify(service, job, step)


def complete(service, job):
    return [step for step in service.steps(job) if step["state"] == "STEP_STATE_COMPLETE"]


def verify(service, job, step):
    name = f"{step['stage']}@{step['step']}"
    done = service.vlmctl("checkpoint", "verify", job, name, check=False)
    if done.returncode in GONE:  # the commit of a later one has removed it; an older one may stay, the newest verified
        kept = [other for other in complete(service, job) if other["stage"] == step["stage"]]
        assert any(int(other["step"]) > int(step["step"]) for other in kept), (name, kept)
        return
    assert done.returncode == 0, f"{name} does not verify:\n{done.stdout}{done.stderr}"


def check_job(service, job, reference):
    """A job that has ended: its weights, its steps, its folders."""
    for stage, expected in reference.items():
        found = weights(service.artifact(job, stage))
        different = [name for name in expected if expected[name] != found.get(name)]
        assert not different and found.keys() == expected.keys(), (stage, different, sorted(found))
    steps = wait_until("no step is being written or deleted", lambda: (found := service.steps(job)) and all(
        step["state"] == "STEP_STATE_COMPLETE" for step in found) and found)
    for step in steps:
        verify(service, job, step)
    listed = {step["folder"] for step in steps}
    on_disk = {str(folder) for folder in (service.folder / "artifacts/jobs" / job).glob("*/step-*")}
    assert on_disk == listed, f"folders without a row: {on_disk - listed}; rows without a folder: {listed - on_disk}"
