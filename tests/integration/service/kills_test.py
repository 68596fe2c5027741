"""SIGKILL of real processes. Usage: kills_test.py CASE BINARIES [SEED]"""
import concurrent.futures
import os
import signal
import sys
import time
import traceback

from kill_rounds import VICTIMS, Round, undisturbed
from service import (LONGER, LONGER_STEPS, Service, alive, complete_steps, measured, run_case, steps_done, wait_until,
                     weights)


def run_round(one, reference):
    try:
        one.run(reference)
    except BaseException:
        traceback.print_exc()  # at once: another round may hang until CTest ends all of them
        raise


def kill_rounds(binaries):
    """One round for each victim, with every named place: kill_rounds.py says what is looked at."""
    seed = sys.argv[3] if len(sys.argv) > 3 else str(int(time.time()))
    print(f"seed {seed}; again with: {sys.argv[0]} kill_rounds {binaries} {seed}", flush=True)
    reference = undisturbed(binaries)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # a round waits for leases and starts most of its time
        for done in [pool.submit(run_round, Round(binaries, victim, seed), reference) for victim in VICTIMS]:
            done.result()


def a_restarted_coordinator_loses_nothing(binaries):
    """SIGKILL of the coordinator while a stage trains: it comes back, the same trainers go on, the job ends."""
    with Service(binaries) as service:
        job = service.submit(*LONGER)
        wait_until("sft trains", lambda: steps_done(service, job) >= 5)
        trainers = sorted(service.trainers())
        assert len(trainers) == 2, trainers
        address = service.where["address"]
        since = time.monotonic()
        service.kill("coordinator")
        service.start_coordinator(address)
        measured("serving again", since)
        service.wait_for_workers(2)
        measured("both workers back", since)
        seen = steps_done(service, job)
        wait_until("sft goes on", lambda: steps_done(service, job) > max(seen, 5))
        assert sorted(service.trainers()) == trainers, (trainers, service.trainers())
        assert service.stage(job, "sft")["state"] == "STAGE_STATE_ACTIVE", "too few steps for this test"
        service.wait(job)
        sft = service.stage(job, "sft")
        assert int(sft.get("restarts", 0)) == 0 and int(sft["progress"]["done"]) == LONGER_STEPS, sft


def kills_change_ranks_but_no_bit(binaries):
    """SIGKILL of a worker, then of a trainer once the worker is back: the stage resumes from its checkpoints, from two
    ranks on one and from one on two, and learns the weights of an undisturbed run."""
    with Service(binaries) as service:
        job = service.submit(*LONGER)
        wait_until("a checkpoint of sft on two ranks", lambda: complete_steps(service, job))
        trainers = service.trainers(of="worker-1")
        assert trainers
        service.kill("worker-1")
        wait_until("its trainers end with it", lambda: not any(alive(pid) for pid in trainers), deadline_s=20)
        wait_until("a checkpoint of sft on one rank", lambda: complete_steps(service, job, world=1))
        service.start_worker(1)
        service.wait_for_workers(2)
        os.kill(service.trainers(of="worker-0")[0], signal.SIGKILL)
        service.wait(job)
        sft = service.stage(job, "sft")
        assert int(sft["restarts"]) == 2 and sft["world"] == 2, sft
        disturbed = weights(service.artifact(job, "sft"))
    with Service(binaries) as service:
        job = service.submit(*LONGER)
        service.wait(job)
        assert weights(service.artifact(job, "sft")) == disturbed


run_case(globals())
