"""The service as a user meets it: real processes, real files. Usage: service_test.py CASE BINARIES"""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile

from service import (ENDLESS, ROOT, Service, TINY, alive, complete_steps, run_case, steps_done, wait_until, weights)


def whole_job(binaries):
    """The small job ends with a report, an export that transformers opens, and answers from chat."""
    with Service(binaries) as service:
        job = service.submit()
        stages = {stage["name"]: stage for stage in service.wait(job)["stages"]}
        assert set(s["state"] for s in stages.values()) == {"STAGE_STATE_SUCCEEDED"}, stages
        report = json.loads((service.artifact(job, "evaluate") / "report.json").read_text())
        assert report["tasks"]["scenes"]["color"]["total"] == 2, report
        assert [c["stage"] for c in report["curves"]] == ["pretrain", "align", "sft"]
        export = service.folder / "export"
        service.vlmctl("checkpoint", "export", job, "sft", "--to", export)
        assert not list(export.glob("optimizer*")) and not list(export.glob("*.sum"))
        again = service.vlmctl("checkpoint", "export", job, "sft", "--to", export, check=False)
        assert again.returncode != 0 and "exist" in again.stderr, again
        picture = service.artifact(job, "evaluate") / "picture-00.png"
        ours = service.vlmctl("chat", "--model", export, "--image", picture, "--prompt", "What color is the shape?",
                              "--max-tokens", 6).stdout
        theirs = transformers_answer(export, picture, "What color is the shape?", 6)
        assert ours.rstrip("\n") == theirs, (ours, theirs)
        verify = service.vlmctl("checkpoint", "verify", job, "sft")
        assert verify.returncode == 0


def transformers_answer(folder, picture, question, tokens):
    """The same question to transformers, greedily, with nothing but the exported folder: its template, its picture
    settings (Pillow's resampling, as here) and its weights."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration
    torch.set_num_threads(1)
    model, info = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        add_generation_prompt=True, tokenize=False)
    batch = processor(images=Image.open(picture).convert("RGB"), text=prompt, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
    return processor.tokenizer.decode(out[0, batch["input_ids"].shape[1]:], skip_special_tokens=True)


def unchanged_stages_are_reused(binaries):
    """A second submit runs nothing again; a changed setting runs only what follows from it."""
    with Service(binaries) as service:
        first = service.submit()
        service.wait(first)
        second = service.submit()
        states = {stage["name"]: stage["state"] for stage in service.wait(second)["stages"]}
        assert set(states.values()) == {"STAGE_STATE_REUSED"}, states
        third = service.submit("--set", "spec.stages[sft].train.steps=9")
        states = {stage["name"]: stage["state"] for stage in service.wait(third)["stages"]}
        assert states["align"] == "STAGE_STATE_REUSED" and states["sft"] == "STAGE_STATE_SUCCEEDED", states


def ranks_and_zero_levels_give_equal_bits(binaries):
    """Twenty steps: one rank and two as processes, zero 0 and 2: losses and weights are equal, bit for bit."""
    reference = None
    for workers in (1, 2):
        for zero in (0, 2):
            with Service(binaries, workers) as service:  # a service each: zero is no reason to train again
                job = service.submit("--set", "spec.stages[sft].train.steps=20", *[
                    argument for stage in ("pretrain", "align", "sft")
                    for argument in ("--set", f"spec.stages[{stage}].train.zero={zero}")])
                service.wait(job)
                assert service.stage(job, "sft")["world"] == workers
                found = weights(service.artifact(job, "sft"))
                found["curves"] = (service.artifact(job, "sft") / "curves.jsonl").read_bytes()
                if reference is None:
                    reference = found
                    assert found["curves"].count(b"\n") == 20
                different = [name for name in reference if reference[name] != found[name]]
                assert not different, (workers, zero, different)


RETRIED = """
apiVersion: vlm/v1
kind: TrainingJob
metadata: {name: repaired}
spec:
  stages:
    - name: generate
      kind: generate
      generate:
        shard_samples: 16
        splits: [{name: sentences, samples: 16}]
    - name: tokenizer
      kind: tokenizer
      needs: [generate]
      data: {text: [corpus.jsonl]}
      tokenizer: {vocab_size: 320}
"""


def a_failed_job_succeeds_after_retry(binaries):
    """A stage fails for want of its file; the file comes, `vlmctl retry` goes on from there, good stages are kept."""
    with Service(binaries, workers=1) as service:
        (service.folder / "job.yaml").write_text(RETRIED)
        job = service.submit(job=service.folder / "job.yaml")
        failed = service.vlmctl("wait", job, "--timeout", "60s", check=False)
        assert failed.returncode == 1, failed
        before = {stage["name"]: stage for stage in service.job(job)["stages"]}
        assert before["generate"]["state"] == "STAGE_STATE_SUCCEEDED", before
        assert before["tokenizer"]["state"] == "STAGE_STATE_FAILED", before
        assert "corpus.jsonl" in service.vlmctl("describe", job).stdout
        lines = [json.dumps({"text": f"the quick brown fox jumps {n} times over the lazy dog"}) for n in range(200)]
        (service.folder / "data/corpus.jsonl").write_text("\n".join(lines) + "\n")
        service.vlmctl("retry", job)
        after = {stage["name"]: stage for stage in service.wait(job)["stages"]}
        assert after["generate"] == before["generate"], "a good stage is kept as it is"
        assert after["tokenizer"]["state"] == "STAGE_STATE_SUCCEEDED", after
        assert int(after["tokenizer"]["fence"]) > int(before["tokenizer"]["fence"])
        refused = service.vlmctl("retry", job, check=False)
        assert refused.returncode == 9, "there is nothing to retry"


def stored_log(service, job, stage):
    """What the coordinator has of rank 0's log: logs may come after the news that their rank has ended."""
    done = service.vlmctl("logs", job, "--stage", stage, check=False)
    return done.stdout if done.returncode == 0 else ""


def follow_logs_and_cancel(binaries):
    """`submit --follow` tells the way of each stage and ends with the job's code; logs hold a trainer's steps; cancel
    ends a job that trains, and its trainers."""
    with Service(binaries) as service:
        followed = service.vlmctl("submit", TINY, "--follow").stdout
        for stage in ("generate", "tokenizer", "index", "pretrain", "align", "sft", "evaluate"):
            assert re.search(rf"^{stage}: succeeded, ", followed, re.M), followed
        job = re.match(r"job (\S+) submitted\n", followed).group(1)
        assert f"job {job} succeeded after " in followed, followed
        wait_until("the whole log of sft is there", lambda: re.findall(
            r"^step (\d+)/8 loss \d+\.\d+ ", stored_log(service, job, "sft"), re.M)[-1:] == ["8"])
        log = wait_until("a log of evaluate is there", lambda: stored_log(service, job, "evaluate"))
        assert re.match(r"vlm-trainer \S+: evaluate of \S+, attempt \d+, rank 0 of 2, ", log), log
        assert "step 1/8 " not in log, "a stage's log is its own"

        follower = subprocess.Popen([service.bin / "vlmctl", "--state-dir", service.folder / "coordinator", "submit",
                                     TINY, "--follow", *ENDLESS], stdout=subprocess.PIPE, text=True)
        job = re.match(r"job (\S+) submitted\n", follower.stdout.readline()).group(1)
        wait_until("sft trains", lambda: steps_done(service, job) >= 5)
        trainers = service.trainers()
        assert len(trainers) == 2, trainers
        service.vlmctl("cancel", job, "--note", "enough seen")
        told, _ = follower.communicate(timeout=60)
        assert follower.returncode == 6, (follower.returncode, told)
        assert re.search("^sft: cancelled", told, re.M) and f"job {job} cancelled after " in told, told
        assert service.job(job)["state"] == "JOB_STATE_CANCELLED"
        assert service.vlmctl("wait", job, check=False).returncode == 6
        wait_until("its trainers are gone", lambda: not any(alive(pid) for pid in trainers), deadline_s=20)
        assert service.vlmctl("cancel", job, check=False).returncode == 0, "a cancelled job is cancelled"


def the_demo_shows_what_it_promises(binaries):
    """scripts/demo on the small job, then again with --reuse: every part is printed, nothing is trained twice."""
    with tempfile.TemporaryDirectory(prefix="vlm-demo-") as runs:
        first = demo(binaries, runs)
        assert re.search(r"^sft: active, step \d+/8", first, re.M), first
        assert re.search(r"^evaluate: succeeded, ", first, re.M), first
        again = demo(binaries, runs, "--reuse")
        assert re.search(r"^sft: reused, ", again, re.M), again
        assert ": succeeded, " not in again and ": active, " not in again, again
        ids = [re.search(r"^job (\S+) submitted$", text, re.M).group(1) for text in (first, again)]
        assert ids[0] != ids[1] and f"vlmctl describe {ids[1]}\n" in again, ids
        failing = subprocess.run([ROOT / "scripts/demo", "--bin", binaries, "--state", runs, "--job", "/dev/null"],
                                 capture_output=True, text=True, timeout=100)
        assert failing.returncode == 1 and "did not succeed" in failing.stdout, failing


def demo(binaries, runs, *options):
    """What the demo prints, after a check of its parts and of its exit code."""
    done = subprocess.run([ROOT / "scripts/demo", "--bin", binaries, "--state", runs, "--job", TINY, *options],
                          capture_output=True, text=True, timeout=140)
    text = done.stdout
    report = pathlib.Path(re.search(r"^Report +(\S+)$", text, re.M).group(1))
    told = json.loads(report.with_name("report.json").read_text())
    assert done.returncode == (0 if told["passed"] else 1), (done, told["passed"])
    for task, kinds in told["tasks"].items():
        for kind, score in kinds.items():
            assert re.search(rf"^{task} +{kind} +{score['total']} +{100 * score['accuracy']:.1f} %", text, re.M), text
    pictures = re.findall(r"^(/\S+\.png)\n  .+  ->  .*\((?:right|wrong, true answer: \S+)\)$", text, re.M)
    assert len(pictures) == 3 and all(pathlib.Path(p).read_bytes().startswith(b"\x89PNG") for p in pictures), text
    checkpoints = pathlib.Path(re.search(r"^Checkpoints +(\S+)$", text, re.M).group(1))
    assert checkpoints.parent.name == "jobs", checkpoints
    assert report.stat().st_size > 1000 and re.search(r"^  vlmctl chat --job \S+ --image \S+ --prompt ", text, re.M)
    return text


COORDINATOR_SERIES = ["vlm_jobs", "vlm_stages", "vlm_attempts", "vlm_queue_wait_seconds_total",
                      "vlm_store_commit_seconds_bucket", "vlm_last_step_commit_timestamp_seconds"]
COORDINATOR_COUNTERS = ["vlm_heartbeats_total", "vlm_step_commits_total", "vlm_goodput_seconds_total",
                        "vlm_store_commit_seconds_count", "vlm_decisions_total", "vlm_points_total"]
# What all ranks know alike, rank 0 tells.
RANK_0_SERIES = ["vlm_rank_loss", "vlm_rank_learning_rate", "vlm_rank_gradient_norm"]
RANK_0_COUNTERS = ["vlm_rank_tokens_total", "vlm_rank_images_total"]
RANK_SERIES = ["vlm_rank_checkpoint_seconds", "vlm_rank_checkpoint_bytes",
               "vlm_rank_checkpoint_success_timestamp_seconds", "vlm_ranks", "vlm_rank_heartbeat_age_seconds"]
PHASES = ["data", "forward", "backward", "communication", "optimizer", "checkpoint"]
RANK_COUNTERS = ["vlm_rank_data_wait_seconds_total",
                 *[f'vlm_rank_step_seconds_total{{[^}}]*phase="{phase}"' for phase in PHASES]]


def metrics_move(binaries):
    """/metrics of a job whose trainer was killed, scraped twice: the restart and its cost are counted, every counter
    of coordinator and ranks grows, each program has its own series only; then rank series go."""
    with Service(binaries) as service:
        job = service.submit(*ENDLESS)
        before = wait_until("sft has saved", lambda: complete_steps(service, job))[-1]
        assert total(service.scrape(), 'vlm_restarts_total{cause="crash"}') == 0
        os.kill(service.trainers()[0], signal.SIGKILL)
        wait_until("sft trains again", lambda: int(service.stage(job, "sft")["restarts"]) == 1 and
                   service.stage(job, "sft")["attempt_state"] == "ATTEMPT_STATE_RUNNING")
        addresses = [re.search(r"metrics=(\S+)", (service.folder / f"worker-{n}.log").read_text()).group(1)
                     for n in (0, 1)]
        wait_until("both ranks have saved again", lambda: all(
            re.search("^vlm_rank_checkpoint_success_timestamp_seconds{", service.scrape(address), re.M)
            for address in addresses))
        steps_done = f'vlm_stage_steps_done{{job="{job}",stage="sft"}}'
        wait_until("and gone on from its checkpoint", lambda: total(service.scrape(), steps_done) >= before + 20)
        first = service.scrape()
        for series in COORDINATOR_SERIES + ["vlm_stage_steps_done"]:
            assert re.search(rf"^{series}[ {{]", first, re.M), f"{series} is missing of\n{first}"
        assert total(first, 'vlm_restarts_total{cause="crash"}') == 1 and total(first, "vlm_restarts_total") == 1, first
        for cause in ("crash", "start"):
            assert total(first, f'vlm_badput_seconds_total{{cause="{cause}"}}') > 0, first
        assert not re.search("^vlm_rank_", first, re.M), "series of ranks are the workers'"
        ranks = [service.scrape(address) for address in addresses]
        for text in ranks:
            of_rank = RANK_SERIES + (RANK_0_SERIES if 'rank="0"' in text else [])
            for series in of_rank + [f'vlm_rank_step_seconds{{[^}}]*phase="{phase}"' for phase in PHASES]:
                assert re.search(rf"^{series}", text, re.M), f"{series} is missing of\n{text}"
            assert not re.search("^vlm_(jobs|stage_|stages)", text, re.M), "series of jobs are the coordinator's"
        for name in COORDINATOR_COUNTERS:
            wait_until(f"{name} grows", lambda: grew(first, service.scrape(), name), deadline_s=20)
        assert sorted(re.search(r'^vlm_rank_step{.*rank="(\d+)"', text, re.M).group(1) for text in ranks) == ["0", "1"]
        for address, before in zip(addresses, ranks):
            for name in RANK_COUNTERS + (RANK_0_COUNTERS if 'rank="0"' in before else []):
                wait_until(f"{name} of {address} grows", lambda: grew(before, service.scrape(address), name),
                           deadline_s=20)
        waiting = service.submit("--set", "spec.seed=8")  # no slot is free, and nothing can be reused
        queued = 'vlm_queue_wait_seconds_total{reason='
        wait_until("the queue's wait grows", lambda: grew(first, service.scrape(), queued))
        service.vlmctl("cancel", waiting)
        os.kill(service.trainers()[0], signal.SIGKILL)
        for name in ('vlm_restarts_total{cause="crash"', 'vlm_badput_seconds_total{cause="crash"',
                     'vlm_badput_seconds_total{cause="start"'):
            wait_until(f"{name} grows", lambda: grew(first, service.scrape(), name))
        service.vlmctl("cancel", job)
        wait_until("rank series are removed", lambda: not any(
            re.search(r"^vlm_rank_loss{", service.scrape(address), re.M) for address in addresses))


def total(text, series):
    """Sum of a metric, or of those of its series whose labels are given as they are written."""
    pattern = rf"^{re.escape(series)}" + ("" if "{" in series else r"(?:{.*})?") + r" (\S+)$"
    found = re.findall(pattern, text, re.M)
    assert found, f"{series} is missing of\n{text}"
    return sum(float(value) for value in found)


def grew(before, after, pattern):
    """The sum of the series that match has become larger; a pattern may go into the labels."""
    def value(text):
        return sum(float(v) for v in re.findall(rf"^{pattern}[^ ]* (\S+)$", text, re.M))
    return value(after) > value(before)


def a_bad_job_file_is_refused_with_its_place(binaries):
    """Nothing is stored of a job file with an unknown key; line, column and the nearest key are named."""
    with Service(binaries, workers=0) as service:
        bad = service.folder / "bad.yaml"
        bad.write_text(TINY.read_text().replace("seed: 7", "sead: 7"))
        done = service.vlmctl("submit", bad, check=False)
        assert done.returncode == 4 and re.search(r"bad\.yaml:6:3: .*sead.*seed", done.stdout + done.stderr), done
        assert not json.loads(service.vlmctl("list", "-o", "json").stdout).get("jobs"), "stored all the same"


run_case(globals())
