#!/usr/bin/env python3
"""Writes tiny_curves.json from a finished run of examples/shapes/tiny.yaml (run_job JOB FOLDER WORLD).

   make_curves.py FOLDER

The tolerance of step k is 1e-5 k times the loss: rounding of one other CPU type against another is about 1e-7 of a
figure, and training carries it on from step to step.
"""
import json
import pathlib
import sys

STAGES = ("pretrain", "align", "sft")


def curve(folder, stage):
    found = sorted(folder.glob(f"**/{stage}/step-*/curves.jsonl"))
    if not found:
        sys.exit(f"no curve of stage {stage} below {folder}")
    points = [json.loads(line) for line in found[-1].read_text().splitlines()]
    return [{"step": point["step"], "loss": point["loss"],
             "tolerance": float(f"{1e-5 * point['step'] * point['loss']:.3g}")} for point in points]


def main():
    folder = pathlib.Path(sys.argv[1])
    golden = {stage: curve(folder, stage) for stage in STAGES}
    lines = [f'  "{stage}": [\n' + ",\n".join("    " + json.dumps(point) for point in points) + "\n  ]"
             for stage, points in golden.items()]
    (pathlib.Path(__file__).parent / "tiny_curves.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
