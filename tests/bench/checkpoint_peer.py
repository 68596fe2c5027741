"""The other side of checkpoint_bench: torch.distributed.checkpoint on the same weights and AdamW's moments, sharded by
FSDP2 over Gloo.

Usage: checkpoint_peer.py WORLD FOLDER MODEL BATCH.safetensors
Reads and answers as checkpoint_bench does. Files are synced (FileSystemWriter's default). "pause DIR" is the time until
async_save returns; what it writes is waited for afterwards.
"""

import json
import sys
import time

import gloo_ranks

MODEL, BATCH = sys.argv[3:5]


def build(world):
    import torch
    from safetensors.torch import load_file
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(MODEL, attn_implementation="sdpa", dtype=torch.float32)
    model.config.use_cache = model.config.text_config.use_cache = False
    gloo_ranks.freeze_unused(model)
    mesh = init_device_mesh("cpu", (world,))
    for layer in gloo_ranks.layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    batch = load_file(BATCH)
    model(input_ids=batch["ids"], pixel_values=batch["pixels"], labels=batch["labels"]).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def serve(rank):
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    model = optimizer = None
    for words in gloo_ranks.requests(rank):
        dist.barrier()
        start = time.perf_counter()
        if words[0] == "model":
            model, optimizer = build(dist.get_world_size())
        else:
            weights, moments = get_state_dict(model, optimizer)
            state = {"model": weights, "optimizer": moments}
            if words[0] == "pause":
                writing = dcp.async_save(state, storage_writer=dcp.FileSystemWriter(words[1]))
            elif words[0] == "save":
                dcp.save(state, storage_writer=dcp.FileSystemWriter(words[1], sync_files=True))
            else:
                dcp.load(state, checkpoint_id=words[1])
                set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        dist.barrier()
        if rank == 0:
            seconds = time.perf_counter() - start
        if words[0] == "pause":
            writing.result()
        if rank == 0:
            print(json.dumps({"seconds": [seconds]}), flush=True)


gloo_ranks.run(int(sys.argv[1]), sys.argv[2], serve)
