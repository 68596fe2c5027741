"""The other side of collectives_bench: Gloo, by the calls that DDP and FSDP2 make.

Usage: collectives_peer.py WORLD FOLDER
Reads and answers as collectives_bench does.
"""

import json
import sys
import time

import gloo_ranks

ELEMENTS_MAX = (64 << 20) // 4


def serve(rank):
    import torch
    import torch.distributed as dist
    world = dist.get_world_size()
    buffers = [torch.zeros(ELEMENTS_MAX), torch.zeros(ELEMENTS_MAX)]
    for operation, size, rounds in gloo_ranks.requests(rank):
        elements = int(size) // 4
        shard = elements // world
        whole, other = buffers[0][:elements], buffers[1][:elements]
        own = other[:shard]
        seconds = []
        for number in range(-1, int(rounds)):  # the first one touches the pages and is not counted
            whole.fill_(rank + 1)
            own.fill_(rank + 1)
            dist.barrier()
            start = time.perf_counter()
            if operation == "all_reduce":
                dist.all_reduce(whole)
            elif operation == "reduce_scatter":
                dist.reduce_scatter_tensor(own, whole)
            else:
                dist.all_gather_into_tensor(whole, own)
            if number >= 0:
                seconds.append(time.perf_counter() - start)
        if operation == "all_gather":
            assert torch.equal(whole, torch.arange(1.0, world + 1).repeat_interleave(shard))
        else:
            assert bool(((whole if operation == "all_reduce" else own) == world * (world + 1) / 2).all())
        if rank == 0:
            print(json.dumps({"seconds": seconds}), flush=True)


gloo_ranks.run(int(sys.argv[1]), sys.argv[2], serve)
