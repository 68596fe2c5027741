"""The other side of training_step_bench: one LLaVA folder trained by transformers and torch.

Usage: training_step_peer.py FOLDER THREADS eager|compile all|targets CASE=BATCH.safetensors ...
`all`: logits at all positions and transformers' own loss, as it ships. `targets`: the same model, but the head and the
loss see target positions only. Reads "CASE STEPS" or "CASE profile" per line; answers as training_step_bench does, or
with the shares of a step's time spent in matrix products and in attention.
"""

import json
import sys
import time

import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

GEMM = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmm_", "mkldnn::_linear_pointwise",
        "aten::mkldnn_convolution", "aten::convolution_backward", "aten::thnn_conv2d", "aten::_slow_conv2d_forward",
        "aten::_slow_conv2d_backward", "mkl::_mkl_linear"}
ATTENTION = {"aten::_scaled_dot_product_flash_attention_for_cpu",
             "aten::_scaled_dot_product_flash_attention_for_cpu_backward"}


class Trainer:
    """Of a model on any device; `autocast`: the type of its products, its weights stay as they are."""

    def __init__(self, model, how, where, autocast=None):
        self.model, self.autocast = model, autocast
        self.model.config.use_cache = self.model.config.text_config.use_cache = False
        self.model.train()
        self.loss_of = {"all": self.all_positions, "targets": self.targets_only}[where]
        if how == "compile":
            self.loss_of = torch.compile(self.loss_of)
        decays = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW([{"params": decays, "weight_decay": 0.01},
                                            {"params": others, "weight_decay": 0.0}], lr=1e-4, fused=True)

    def all_positions(self, batch):
        return self.model(input_ids=batch["ids"], pixel_values=batch["pixels"], labels=batch["labels"]).loss

    def targets_only(self, batch):
        hidden = self.model.model(input_ids=batch["ids"], pixel_values=batch["pixels"]).last_hidden_state
        rows = hidden.flatten(0, 1).index_select(0, batch["index"])
        return torch.nn.functional.cross_entropy(self.model.lm_head(rows), batch["target"])

    def step(self, batch):
        device = batch["ids"].device.type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            loss = self.loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def read_batch(path):
    return with_targets(load_file(path))


def with_targets(batch):
    """The batch with the places of the hidden states that predict targets, and the targets."""
    labels = batch["labels"].clone()
    labels[:, 0] = -100
    flat = labels.flatten()
    where = (flat != -100).nonzero().flatten()
    return dict(batch, index=where - 1, target=flat[where])


def run(trainer, batch, steps):
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = trainer.step(batch)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "loss": loss}


def shares(trainer, batch):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(5):
            trainer.step(batch)
    rows = profile.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    share = lambda names: sum(row.self_cpu_time_total for row in rows if row.key in names) / total
    top = sorted(rows, key=lambda row: -row.self_cpu_time_total)[:12]
    return {"seconds": [], "gemm": share(GEMM), "attention": share(ATTENTION),
            "top": [[row.key, round(row.self_cpu_time_total / total, 3)] for row in top]}


def main():
    folder, threads, how, where = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    trainer = Trainer(model, how, where)
    batches = {case: read_batch(path) for case, path in (word.split("=") for word in sys.argv[5:])}
    for line in sys.stdin:
        case, request = line.split()
        answer = (shares(trainer, batches[case]) if request == "profile" else
                  run(trainer, batches[case], int(request)))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
