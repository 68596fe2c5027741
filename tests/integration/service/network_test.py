"""What the network loses between processes. Usage: network_test.py CASE BINARIES"""
import json
import subprocess
import time

from proxy import Proxy
from service import Service, TINY, complete_steps, measured, run_case, wait_until, weights

# No answer of the coordinator is as long as the composed job file, and nothing else that submit sends is.
SUBMIT_BYTES = 1500
STEPS = ["--set", "spec.stages[sft].train.steps=400", "--set", "spec.stages[sft].checkpoint.every=20 steps"]


def node_states(service):
    return sorted(node["state"].removeprefix("NODE_STATE_") for node in service.nodes())


def a_worker_that_is_cut_off_is_replaced_and_taken_back(binaries):
    """The cable to one of two workers is pulled while both train: its lease ends, the other one goes on alone. Plugged
    in again, the worker ends what is not allowed any more and serves; the weights are those of an undisturbed run."""
    with Service(binaries, workers=1) as service, Proxy(service.where["address"]) as proxy:
        service.start_worker(1, coordinator=proxy.address)
        service.wait_for_workers(2)
        job = service.submit(*STEPS)
        wait_until("a checkpoint of sft on two ranks", lambda: complete_steps(service, job))
        fence = int(service.stage(job, "sft")["fence"])
        cut_off = service.trainers(of="worker-1")
        assert len(cut_off) == 1, cut_off
        proxy.cut()  # the stage's last commit needs both ranks, so that it cannot end now
        since = time.monotonic()
        wait_until("the worker is lost", lambda: node_states(service) == ["LIVE", "LOST"])
        measured("lost", since)
        wait_until("sft is given to the other one alone", lambda: (
            (sft := service.stage(job, "sft"))["world"] == 1 and int(sft["fence"]) > fence))
        measured("the other one goes on", since)
        proxy.heal()
        since = time.monotonic()
        wait_until("the worker is back", lambda: node_states(service) == ["LIVE", "LIVE"])
        measured("plugged in again, it is back", since)
        wait_until("its old rank is gone", lambda: cut_off[0] not in service.trainers(of="worker-1"))
        service.wait(job)
        assert int(service.stage(job, "sft")["restarts"]) == 1, service.stage(job, "sft")
        disturbed = weights(service.artifact(job, "sft"))
    with Service(binaries) as service:
        job = service.submit(*STEPS)
        service.wait(job)
        assert weights(service.artifact(job, "sft")) == disturbed


def a_submit_whose_answer_is_lost_is_one_job(binaries):
    """The request arrives and is stored, its answer does not come: the connection breaks and vlmctl sends the same
    request again. One job, whose id is printed."""
    with Service(binaries, workers=0) as service, Proxy(service.where["address"]) as proxy:
        proxy.lose_answers(after_bytes=SUBMIT_BYTES)
        submit = subprocess.Popen(
            [service.bin / "vlmctl", "--coordinator", proxy.address, "--token-file",
             service.folder / "coordinator/user.token", "submit", TINY, "-q"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until("the job is stored", lambda: jobs(service))
        wait_until("an answer was thrown away", proxy.answers_lost.is_set)
        assert submit.poll() is None, submit.communicate()
        proxy.keep_answers()
        proxy.break_connections()
        since = time.monotonic()
        printed, told = submit.communicate(timeout=90)
        measured("asked again, the id is printed", since)
        assert submit.returncode == 0, (submit.returncode, printed, told)
        assert [job["job_id"] for job in jobs(service)] == [printed.strip()], (jobs(service), printed)


def jobs(service):
    return json.loads(service.vlmctl("list", "-o", "json").stdout).get("jobs", [])


run_case(globals())
