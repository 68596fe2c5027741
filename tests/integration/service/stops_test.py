"""Processes that stand still, and wake up. Usage: stops_test.py CASE BINARIES"""
import contextlib
import hashlib
import os
import pathlib
import re
import signal
import time

from service import (ENDLESS, Service, alive, complete_steps, measured, process_stat, run_case, steps_done,
                     wait_until)

FAST_NOTICE = ["--frozen-after", 3]  # of a rank without a beat; 10 s unless said
PATIENT = ["--frozen-after", 600]  # a rank that a test lets stand still is not to be replaced
STEPS = ["--set", "spec.stages[sft].train.steps=400", "--set", "spec.stages[sft].checkpoint.every=20 steps"]
COORDINATOR_STOPPED_S = 10
COORDINATOR_AWAY_S = 20


def what_counts(service, job):
    """Every catalog row of a complete step with the hashes of its files: {(stage, step, fence): (row, hashes)}."""
    found = {}
    for row in service.steps(job):
        if row["state"] != "STEP_STATE_COMPLETE":
            continue
        folder = pathlib.Path(row["folder"])
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*"))
                  if path.is_file()}
        assert hashes, row
        row.pop("verified_at", None)
        found[row["stage"], row["step"], row["fence"]] = (row, hashes)
    return found


def steps_of_fence(service, job, fence):
    """The complete steps of sft that an attempt has written."""
    return {int(row["step"]) for row in service.steps(job) if row["stage"] == "sft" and int(row["fence"]) == fence
            and row["state"] == "STEP_STATE_COMPLETE"}


def folders_without_a_row(service, job):
    listed = {step["folder"] for step in service.steps(job)}
    return sorted(set(map(str, (service.folder / "artifacts/jobs" / job).glob("*/step-*"))) - listed)


def freeze_in_a_save(service, job, point, world=2):
    """A rank of sft stands still at the point, in the middle of a save; its process id."""
    wait_until(f"a checkpoint of sft on {world} ranks", lambda: complete_steps(service, job, world))
    service.set_point(point, "freeze")
    pid = wait_until(f"a rank is at {point}", lambda: service.reached(point))
    wait_until("it stands still", lambda: process_stat(pid)[0] == "T", deadline_s=20)
    return pid


def let_it_end_its_save(service, pid):
    """Wakes a rank that stands still in a save. Back when it has written its part and is about to report it, or is
    about to give the save up, or has ended."""
    ends = ("save.part_done", "save.given_up")
    for point in ends:
        service.set_point(point, "freeze")
    os.kill(pid, signal.SIGCONT)
    # Not the first look at its state: that it sleeps says nothing of what it has done.
    wait_until("it has ended its save", lambda: pid in [service.reached(point) for point in ends] or not alive(pid))
    service.unset_points()
    wait_until("it stands still, or is gone", lambda: process_stat(pid)[0] == "T" or not alive(pid), deadline_s=20)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def a_stopped_trainer_is_replaced(binaries):
    """SIGSTOP of a rank in the middle of a save: noticed, killed, replaced under a new fence. Nothing can wake."""
    with Service(binaries, worker_options=FAST_NOTICE, crash_points=True) as service:
        job = service.submit(*STEPS)
        pid = freeze_in_a_save(service, job, "save.file_renamed")
        since = time.monotonic()
        fence = int(service.stage(job, "sft")["fence"])
        before = what_counts(service, job)
        wait_until("sft has another attempt", lambda: int(service.stage(job, "sft")["fence"]) > fence)
        measured("replaced, noticed after 3 s without a beat", since)
        assert not alive(pid), "the slot of a frozen rank was given away while it lives"
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
        service.wait(job)
        sft = service.stage(job, "sft")
        assert int(sft["restarts"]) == 1, sft
        told = service.vlmctl("describe", job).stdout
        assert re.search(r"hang of rank \d on .*; its beats stopped|is frozen: no beat", told), told
        after = what_counts(service, job)
        assert all(after[key] == before[key] for key in before.keys() & after.keys())
        assert before.keys() & after.keys(), "steps of the stages before are kept"


def a_stopped_worker_is_replaced_and_wakes_too_late(binaries):
    """SIGSTOP of a worker and of its rank, which is in the middle of a save: the lease ends, the other worker ends the
    job under new fences. First the rank wakes and goes on with its save, then the worker: no file and no row that
    counts has changed, the rank is ended, the worker serves again."""
    with Service(binaries, crash_points=True) as service:
        job = service.submit(*STEPS)
        pid = freeze_in_a_save(service, job, "save.file_done")
        worker = service.worker_of(pid)
        fence = int(service.stage(job, "sft")["fence"])
        service.processes[worker].send_signal(signal.SIGSTOP)
        since = time.monotonic()
        wait_until("sft has another attempt", lambda: int(service.stage(job, "sft")["fence"]) > fence)
        measured("the other one has its work", since)
        service.wait(job)  # by the other worker alone
        sft = service.stage(job, "sft")
        assert int(sft["fence"]) > fence and sft["world"] == 1 and int(sft["restarts"]) == 1, sft
        before = what_counts(service, job)
        told = service.job(job)
        let_it_end_its_save(service, pid)
        assert what_counts(service, job) == before
        service.processes[worker].send_signal(signal.SIGCONT)
        since = time.monotonic()
        service.wait_for_workers(2)
        measured("awake, it serves again", since)
        wait_until("the old rank is ended", lambda: not alive(pid), deadline_s=30)
        wait_until("both slots are free", lambda: [node.get("slots_free") for node in service.nodes()] == [1, 1])
        assert what_counts(service, job) == before
        assert service.job(job) == told
        assert folders_without_a_row(service, job) == [], "the rank that woke made its step's folder again"
        again = service.submit(*STEPS, "--set", "spec.stages[sft].train.steps=20")
        service.wait(again)
        assert service.stage(again, "sft")["world"] == 2, "the worker that woke takes work"


def a_worker_that_wakes_in_the_next_attempts_save_changes_nothing(binaries):
    """SIGSTOP of a worker alone, in the middle of a save of its rank. The rank lives: it ends that save and trains on,
    while the lease ends and the other worker has the stage under a new fence. The worker wakes while the new attempt is
    in the middle of a save too, and passes on what its rank says: no file and no row that counts changes, the old rank
    is ended, no step of its fence is ever committed, the new attempt's save is."""
    with Service(binaries, worker_options=PATIENT, crash_points=True) as service:
        job = service.submit(*ENDLESS, "--set", "spec.stages[sft].ranks={min: 1, max: 1}")
        old = freeze_in_a_save(service, job, "save.file_done", world=1)
        worker = service.worker_of(old)
        fence = int(service.stage(job, "sft")["fence"])
        service.processes[worker].send_signal(signal.SIGSTOP)
        since = time.monotonic()
        counted = steps_of_fence(service, job, fence)
        let_it_end_its_save(service, old)
        wait_until("sft has another attempt", lambda: int(service.stage(job, "sft")["fence"]) > fence)
        measured("the other one has its work", since)
        newest = max(counted)
        wait_until("which commits", lambda: complete_steps(service, job, world=1)[-1] > newest)
        assert alive(old), "the rank of the stopped worker was to live on"
        new = freeze_in_a_save(service, job, "save.file_done", world=1)
        assert new != old
        wait_until("removed steps are gone", lambda: all(
            step["state"] in ("STEP_STATE_COMPLETE", "STEP_STATE_WRITING") for step in service.steps(job)))
        before = what_counts(service, job)
        service.processes[worker].send_signal(signal.SIGCONT)
        since = time.monotonic()
        wait_until("the old rank is ended", lambda: not alive(old))
        service.wait_for_workers(2)
        measured("awake, its rank is ended and it serves again", since)
        assert what_counts(service, job) == before
        assert alive(new) and int(service.stage(job, "sft")["restarts"]) == 1, service.stage(job, "sft")
        committed = complete_steps(service, job, world=1)[-1]
        os.kill(new, signal.SIGCONT)
        wait_until("the new attempt commits this save and the next",
                   lambda: sum(step > committed for step in complete_steps(service, job, world=1)) >= 2)
        assert steps_of_fence(service, job, fence) <= counted, "a step of the old fence was committed"
        assert int(service.stage(job, "sft")["restarts"]) == 1
        service.vlmctl("cancel", job)


def a_stopped_coordinator_kills_no_job(binaries):
    """SIGSTOP of the coordinator for 10 s, longer than every lease: nobody is lost, the same ranks go on."""
    with Service(binaries) as service:
        job = service.submit(*ENDLESS)
        wait_until("sft trains", lambda: steps_done(service, job) >= 5)
        trainers, before = sorted(service.trainers()), service.stage(job, "sft")
        service.processes["coordinator"].send_signal(signal.SIGSTOP)
        time.sleep(COORDINATOR_STOPPED_S)
        service.processes["coordinator"].send_signal(signal.SIGCONT)
        since = time.monotonic()
        seen = steps_done(service, job)
        wait_until("sft goes on", lambda: steps_done(service, job) > seen)
        measured("awake, it tells of later steps", since)
        after = service.stage(job, "sft")
        assert sorted(service.trainers()) == trainers and after["fence"] == before["fence"], (before, after)
        assert int(after.get("restarts", 0)) == 0, after
        assert " lost" not in service.vlmctl("describe", job).stdout
        service.vlmctl("cancel", job)


def rank_0_log(service):
    """What rank 0 of sft has printed, as its worker has it."""
    for log in service.folder.glob("worker-*/logs/**/*"):
        if log.is_file() and (text := log.read_bytes().decode(errors="replace")) and " sft of " in text:
            if ", rank 0 of " in text:
                yield text


def steps_printed(service):
    """Every tenth step, in the order in which rank 0 printed them."""
    return [int(step) for text in rank_0_log(service) for step in re.findall(r"^step (\d+)/", text, re.M)]


def a_coordinator_that_is_away_costs_no_step(binaries):
    """The coordinator is killed and stays away for 20 s: ranks go on meanwhile, over their next saves too, and
    afterwards; the same attempt, no step twice."""
    with Service(binaries) as service:
        job = service.submit(*ENDLESS)
        wait_until("a checkpoint of sft", lambda: complete_steps(service, job))
        trainers, fence = sorted(service.trainers()), service.stage(job, "sft")["fence"]
        address = service.where["address"]
        service.kill("coordinator")
        away_at = back_at = wait_until("a step is printed", lambda: steps_printed(service)[-1:])[0]
        until = time.monotonic() + COORDINATOR_AWAY_S
        three_saves = 3 * 20
        # Ranks that wait for the coordinator would never print another one.
        while time.monotonic() < until or back_at <= away_at + three_saves:
            wait_until(f"a step after {back_at}", lambda: steps_printed(service)[-1] > back_at)
            back_at = steps_printed(service)[-1]
            time.sleep(1)
        since = time.monotonic()
        service.start_coordinator(address)
        service.wait_for_workers(2)
        measured("started again, both workers are back", since)
        wait_until("sft goes on", lambda: steps_done(service, job) > back_at)
        wait_until("and commits again", lambda: complete_steps(service, job)[-1:] > [back_at])
        wait_until("no save that was begun and skipped keeps a place", lambda: all(
            int(step["step"]) > back_at for step in service.steps(job) if step["state"] == "STEP_STATE_WRITING"))
        after = service.stage(job, "sft")
        assert sorted(service.trainers()) == trainers and after["fence"] == fence, after
        assert int(after.get("restarts", 0)) == 0, after
        printed = steps_printed(service)
        assert printed == list(range(printed[0], printed[-1] + 1, 10)), "a step is missing or was done twice"
        service.vlmctl("cancel", job)


def a_rank_that_never_leaves_a_collective_is_replaced(binaries):
    """One thread of a rank stays in a collective for ever while its heartbeat goes on: found as hung, and replaced."""
    with Service(binaries, crash_points=True) as service:
        job = service.submit(*ENDLESS)
        seen = set()  # what is slow for a rank is known only after some steps of it were timed

        def has_been_timed():
            seen.add(steps_done(service, job))
            return len(seen) > 8
        wait_until("the coordinator has timed some steps", has_been_timed)
        fence, trainers = int(service.stage(job, "sft")["fence"]), sorted(service.trainers())
        service.set_point("reduction.entered", "hang")
        pid = wait_until("a rank is in the collective", lambda: service.reached("reduction.entered"))
        since = time.monotonic()
        assert pid in trainers
        wait_until("sft has another attempt", lambda: int(service.stage(job, "sft")["fence"]) > fence)
        measured("replaced", since)
        assert not alive(pid)
        assert re.search(r"hangs in step at step \d+, collective \d+: no progress for",
                         service.vlmctl("describe", job).stdout), service.vlmctl("describe", job).stdout
        committed = complete_steps(service, job)[-1]
        wait_until("and goes on", lambda: complete_steps(service, job)[-1] > committed)
        assert int(service.stage(job, "sft")["restarts"]) == 1
        service.vlmctl("cancel", job)


run_case(globals())
