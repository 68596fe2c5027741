"""Bad data through real processes: a stage that fails for its data says so, with place and remedy, and what was good
before it is kept."""
import io
import json
import os
import re
import tarfile
import time

from service import DEADLINE_S, Service, measured, run_case, wait_until

JOB = """
apiVersion: vlm/v1
kind: TrainingJob
metadata: {name: bad-data}
spec:
  stages:
    - {name: tokenizer, kind: tokenizer, data: {text: [corpus.jsonl]}, tokenizer: {vocab_size: 300}, shards: 1}
    - name: index
      kind: index
      data:
        sources: [{name: pictures, from: "pictures/*.tar"}]
        tokenizer: {stage: tokenizer}
        image: {size: 24, patch: 6}
        context: 96
      shards: 2
"""
PICTURES = 10
POLICY = "spec.stages[index].data.on_bad_picture=drop"


def picture(number):
    from PIL import Image
    out = io.BytesIO()
    Image.new("RGB", (24, 24), (number * 20, 90, 120)).save(out, "PNG")
    return out.getvalue()


def question(number):
    return json.dumps({"messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"what is number {number}?"}]},
        {"role": "assistant", "content": "a shape"}]}).encode()


def write_tar(path, bad=()):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(PICTURES):
            members = {"png": b"no picture" if number in bad else picture(number), "json": question(number)}
            for ending, contents in members.items():
                info = tarfile.TarInfo(f"s{number}.{ending}")
                info.size = len(contents)
                tar.addfile(info, io.BytesIO(contents))


def prepare(service):
    data = service.folder / "data"
    (data / "pictures").mkdir()
    lines = [json.dumps({"text": f"the quick brown fox sees number {n} of the shapes"}) for n in range(100)]
    (data / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (service.folder / "job.yaml").write_text(JOB)
    return data / "pictures/a.tar"


def fails(service, job, failure, *words):
    """The job fails, its index stage for that reason, and what is told of it has these words."""
    since = time.monotonic()
    done = service.vlmctl("wait", job, "--timeout", f"{DEADLINE_S}s", check=False)
    measured("from the submit to the job's failure", since)
    told = service.vlmctl("describe", job).stdout
    assert done.returncode == 1, (done, told)
    stages = {stage["name"]: stage["state"] for stage in service.job(job)["stages"]}
    assert stages == {"tokenizer": stages["tokenizer"], "index": "STAGE_STATE_FAILED"}, stages
    assert stages["tokenizer"] in ("STAGE_STATE_SUCCEEDED", "STAGE_STATE_REUSED"), stages
    assert failure in told, told
    for word in words:
        assert re.search(word, told), (word, told)


def a_shard_that_is_cut_short_is_named_and_retried_when_it_is_whole(binaries):
    with Service(binaries, workers=1) as service:
        tar = prepare(service)
        write_tar(tar)
        whole = tar.read_bytes()
        tar.write_bytes(whole[:len(whole) // 2 - 300])
        job = service.submit(job=service.folder / "job.yaml")
        fails(service, job, "bad_data", r"tar archive is cut short", r"a\.tar, offset \d+", "copy it again")
        before = service.stage(job, "tokenizer")
        tar.write_bytes(whole)
        service.vlmctl("retry", job)
        assert service.wait(job) and service.stage(job, "tokenizer") == before, "a good stage is kept as it is"
        manifest = json.loads((service.artifact(job, "index") / "manifest.json").read_text())
        assert manifest["samples"] == PICTURES and manifest["sources"][0]["bad_pictures"] == 0, manifest


def bad_pictures_are_counted_and_above_the_limit_fail_the_stage(binaries):
    with Service(binaries, workers=1) as service:
        tar = prepare(service)
        write_tar(tar, bad=(2, 7))
        submit = lambda *options: service.submit(*options, job=service.folder / "job.yaml")
        place = r"a\.tar: record 3, member s2\.png at offset \d+: picture is neither JPEG nor PNG"
        fails(service, submit(), "bad_data", r"set data\.on_bad_picture to drop or placeholder", place)
        fails(service, submit("--set", POLICY), "bad_data", "2 of 10 pictures, limit 0.01", place, "record 8")
        job = submit("--set", POLICY, "--set", "spec.stages[index].data.bad_pictures_max=0.2")
        service.wait(job)
        lines = (service.artifact(job, "index") / "quarantine.jsonl").read_text().splitlines()
        assert [json.loads(line)["member"] for line in lines] == ["s2.png", "s7.png"], lines
        counted = lambda: service.vlmctl("curve", job, "bad_pictures", "--stage", "index", check=False).stdout
        wait_until("the count is stored", lambda: re.search(r"^0\s+2(\.0+)?\s*$", counted(), re.M), deadline_s=60)


def data_outside_the_roots_is_not_read(binaries):
    with Service(binaries, workers=1) as service:
        tar = prepare(service)
        outside = service.folder / "outside"
        outside.mkdir()
        write_tar(outside / "a.tar")
        os.symlink(outside / "a.tar", tar)
        submit = lambda *options: service.submit(*options, job=service.folder / "job.yaml")
        fails(service, submit(), "bad_data", "leads through a symbolic link out of the worker's data roots",
              re.escape(f"--data-root to read: {tar} -> {outside}/a.tar"))
        read = "spec.stages[index].data.sources=[{name: pictures, from: \"%s\"}]"
        fails(service, submit("--set", read % f"{outside}/*.tar"), "bad_data", "outside the worker's data roots",
              re.escape(f"{outside}/*.tar"))
        refused = service.vlmctl("submit", service.folder / "job.yaml", "--set", read % "../outside/*.tar", check=False)
        assert refused.returncode == 4 and "must not contain '..'" in refused.stdout + refused.stderr, refused


run_case(globals())
