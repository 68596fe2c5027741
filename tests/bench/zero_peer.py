"""The other side of zero_bench: transformers' LLaVA under DDP or FSDP2, over Gloo.

Usage: zero_peer.py WORLD FOLDER ddp|ddp_targets|fsdp2_keep|fsdp2 MODEL BATCH.safetensors
`ddp_targets` computes the head and the loss at target positions only, the others at all positions, as transformers does.
`fsdp2_keep` keeps gathered parameters from forward to backward, as ZeRO-2 does; `fsdp2` frees them, as ZeRO-3. Reads and
answers as zero_bench does; AdamW, groups and clipping are those of training_step_peer.py.
"""

import json
import sys
import time

import gloo_ranks

HOW, MODEL, BATCH = sys.argv[3:6]


def head_at_targets(model):
    """The model as a module whose result is the loss, of target positions alone."""
    import torch

    class HeadAtTargets(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.whole = model

        def forward(self, input_ids, pixel_values, index, target):
            hidden = self.whole.model(input_ids=input_ids, pixel_values=pixel_values).last_hidden_state
            rows = hidden.flatten(0, 1).index_select(0, index)
            return torch.nn.functional.cross_entropy(self.whole.lm_head(rows), target)

    return HeadAtTargets()


def build(rank, world):
    import torch
    from safetensors.torch import load_file
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import LlavaForConditionalGeneration

    from training_step_peer import with_targets

    model = LlavaForConditionalGeneration.from_pretrained(MODEL, attn_implementation="sdpa", dtype=torch.float32)
    model.config.use_cache = model.config.text_config.use_cache = False
    gloo_ranks.freeze_unused(model)
    model.train()
    if HOW == "ddp_targets":
        model = head_at_targets(model)
    if HOW.startswith("ddp"):
        model = torch.nn.parallel.DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (world,))
        for layer in gloo_ranks.layers(model):
            fully_shard(layer, mesh=mesh, reshard_after_forward=HOW == "fsdp2")
        fully_shard(model, mesh=mesh, reshard_after_forward=HOW == "fsdp2")
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = [p for p in trained if p.dim() > 1]
    others = [p for p in trained if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decays, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
                                  lr=1e-4, fused=True)
    batch = load_file(BATCH)
    rows = len(batch["ids"]) // world
    part = with_targets({name: tensor[rank * rows:(rank + 1) * rows] for name, tensor in batch.items()})

    def loss_of_part():
        if HOW == "ddp_targets":
            return model(part["ids"], part["pixels"], part["index"], part["target"])
        return model(input_ids=part["ids"], pixel_values=part["pixels"], labels=part["labels"]).loss

    def step():
        loss = loss_of_part()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def serve(rank):
    import torch.distributed as dist
    import transformers  # noqa: F401: is resident before the model
    step = None
    for (request,) in gloo_ranks.requests(rank):
        seconds, loss = [], 0.0
        if request == "model":
            step = build(rank, dist.get_world_size())
        else:
            for _ in range(int(request)):
                start = time.perf_counter()
                loss = step()
                seconds.append(time.perf_counter() - start)
        losses = [None] * dist.get_world_size()
        dist.all_gather_object(losses, loss)
        if rank == 0:
            print(json.dumps({"seconds": seconds, "loss": sum(losses) / len(losses)}), flush=True)


gloo_ranks.run(int(sys.argv[1]), sys.argv[2], serve)
