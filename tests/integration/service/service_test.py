"""The service as a user meets it: real processes, real files. Usage: service_test.py CASE BINARIES"""
import json
import os
import pathlib
import re
import signal
import sys

from service import Service, TINY, wait_until, weights

LONGER = ["--set", "spec.stages[sft].train.steps=400", "--set", "spec.stages[sft].checkpoint.every=20 steps"]


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
    """The same question to transformers, greedily, with our preprocessing files."""
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, LlavaForConditionalGeneration
    torch.set_num_threads(1)
    model, info = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    size = settings["size"]["height"]
    image = Image.open(picture).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(1, size, size, 3).permute(0, 3, 1, 2)
    pixels = (pixels / 255 - 0.5) / 0.5
    marks = "<|image|>" * (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    prompt = f"<|im_start|>user\n{marks}{question}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    model.eval()
    with torch.no_grad():
        out = model.generate(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids),
                             max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


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


def steps(service, job):
    return int(service.stage(job, "sft").get("progress", {}).get("done", 0))


def a_restarted_coordinator_loses_nothing(binaries):
    """SIGKILL of the coordinator while a stage trains: it comes back, workers reattach, the job ends."""
    with Service(binaries) as service:
        job = service.submit(*LONGER)
        wait_until("sft trains", lambda: steps(service, job) >= 5)
        trainers = service.trainers()
        address = service.where["address"]
        service.kill("coordinator")
        service.start_coordinator(address)
        service.wait(job)
        assert int(service.stage(job, "sft").get("restarts", 0)) == 0, service.stage(job, "sft")
        assert trainers


def complete_steps(service, job):
    """Numbers of the complete checkpoints of sft, ascending."""
    listed = json.loads(service.vlmctl("checkpoint", "list", job, "-o", "json").stdout)["steps"]
    return sorted(int(one["step"]) for one in listed
                  if one["stage"] == "sft" and one["state"] == "STEP_STATE_COMPLETE")


def kills_change_ranks_but_no_bit(binaries):
    """SIGKILL of a worker, then of a trainer once the worker is back: the stage resumes from its checkpoints, from two
    ranks on one and from one on two, and learns the weights of an undisturbed run."""
    with Service(binaries) as service:
        job = service.submit(*LONGER)
        wait_until("a checkpoint of sft on two ranks", lambda: complete_steps(service, job))
        assert service.stage(job, "sft")["world"] == 2
        trainers = service.trainers(of="worker-1")
        assert trainers
        service.kill("worker-1")
        wait_until("its trainers end with it", lambda: not any(alive(pid) for pid in trainers), deadline_s=2)
        before = complete_steps(service, job)[-1]
        wait_until("a checkpoint of sft on one rank", lambda: complete_steps(service, job)[-1] > before)
        assert service.stage(job, "sft")["world"] == 1
        service.start_worker(1)
        wait_until("the worker is back", lambda: service.vlmctl("node", "list").stdout.count(" live ") == 2)
        os.kill(service.trainers(of="worker-0")[0], signal.SIGKILL)
        service.wait(job)
        sft = service.stage(job, "sft")
        assert int(sft["restarts"]) == 2 and sft["world"] == 2, sft
        disturbed = weights(service.artifact(job, "sft"))
    with Service(binaries) as service:
        job = service.submit(*LONGER)
        service.wait(job)
        assert weights(service.artifact(job, "sft")) == disturbed


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
        assert failed.returncode not in (0, 7), failed
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
        assert refused.returncode != 0, "there is nothing to retry"


def alive(pid):
    """A zombie, whose parent has yet to look, is not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


COORDINATOR_SERIES = ["vlm_jobs", "vlm_stages", "vlm_attempts", "vlm_queue_wait_seconds_total", "vlm_restarts_total",
                      "vlm_goodput_seconds_total", "vlm_badput_seconds_total", "vlm_heartbeats_total",
                      "vlm_store_commit_seconds_bucket", "vlm_step_commits_total",
                      "vlm_last_step_commit_timestamp_seconds"]
RANK_SERIES = ["vlm_rank_loss", "vlm_rank_learning_rate", "vlm_rank_gradient_norm", "vlm_rank_tokens_total",
               "vlm_rank_images_total", "vlm_rank_data_wait_seconds_total", "vlm_rank_checkpoint_seconds",
               "vlm_rank_checkpoint_bytes", "vlm_rank_checkpoint_success_timestamp_seconds", "vlm_ranks",
               "vlm_rank_heartbeat_age_seconds"]
PHASES = ["data", "forward", "backward", "communication", "optimizer", "checkpoint"]


def metrics_move(binaries):
    """/metrics of a running job, scraped twice: every series is there and counters grow; then rank series go."""
    with Service(binaries) as service:
        job = service.submit(*LONGER)
        wait_until("sft has saved", lambda: steps(service, job) >= 45)
        os.kill(service.trainers()[0], signal.SIGKILL)  # so that there is a restart to count
        wait_until("sft trains again", lambda: int(service.stage(job, "sft")["restarts"]) == 1 and
                   service.stage(job, "sft")["attempt_state"] == "ATTEMPT_STATE_RUNNING")
        wait_until("and saves", lambda: steps(service, job) >= 85)
        first = service.scrape()
        for series in COORDINATOR_SERIES:
            assert re.search(rf"^{series}[ {{]", first, re.M), f"{series} is missing of\n{first}"
        addresses = [re.search(r"metrics=(\S+)", (service.folder / f"worker-{n}.log").read_text()).group(1)
                     for n in (0, 1)]
        ranks = "".join(service.scrape(address) for address in addresses)
        for series in RANK_SERIES:
            assert re.search(rf"^{series}[ {{]", ranks, re.M), f"{series} is missing of\n{ranks}"
        for phase in PHASES:
            assert re.search(rf'^vlm_rank_step_seconds{{.*phase="{phase}"', ranks, re.M), phase
        wait_until("counters of the coordinator grow", lambda: grew(
            first, service.scrape(), ["vlm_heartbeats_total", "vlm_step_commits_total"]))
        wait_until("counters of the ranks grow", lambda: grew(
            ranks, "".join(service.scrape(address) for address in addresses),
            ["vlm_rank_tokens_total", "vlm_rank_images_total", "vlm_rank_step_seconds_total"]))
        service.wait(job)
        wait_until("rank series are removed", lambda: not any(
            re.search(r"^vlm_rank_loss{", service.scrape(address), re.M) for address in addresses))


def grew(before, after, names):
    def total(text, name):
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))
    return all(total(after, name) > total(before, name) for name in names)


def a_bad_job_file_is_refused_with_its_place(binaries):
    """Nothing is stored of a job file with an unknown key; line, column and the nearest key are named."""
    with Service(binaries, workers=0) as service:
        bad = service.folder / "bad.yaml"
        bad.write_text(TINY.read_text().replace("seed: 7", "sead: 7"))
        done = service.vlmctl("submit", bad, check=False)
        assert done.returncode == 4 and re.search(r"bad\.yaml:6:3: .*sead.*seed", done.stdout + done.stderr), done
        assert not json.loads(service.vlmctl("list", "-o", "json").stdout).get("jobs"), "stored all the same"


def main():
    case, binaries = sys.argv[1:]
    globals()[case](binaries)


main()
