"""Ranks of torch.distributed over Gloo as processes of one machine, forked before torch is imported."""

import os
import sys


def run(world, folder, body):
    """Calls body(rank) on every rank, rank 0 of which keeps the standard input and output; ends the program."""
    ranks = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            if rank > 0:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            import torch
            import torch.distributed as dist
            torch.set_num_threads(1)
            dist.init_process_group("gloo", init_method=f"file://{os.path.abspath(folder)}/store", rank=rank, world_size=world)
            body(rank)
            dist.destroy_process_group()
            sys.stdout.flush()
            os._exit(0)
        ranks.append(child)
    codes = [os.waitpid(child, 0)[1] for child in ranks]
    sys.exit(0 if not any(codes) else f"a rank ended badly: {codes}")


def requests(rank):
    """The lines of rank 0's standard input, on every rank."""
    import torch.distributed as dist
    while True:
        line = [sys.stdin.readline() if rank == 0 else None]
        dist.broadcast_object_list(line, src=0)
        if not line[0]:
            return
        yield line[0].split()


def layers(model):
    """The blocks of text model and encoder, each of which FSDP2 shards as a unit."""
    return [module for module in model.modules() if type(module).__name__.endswith(("DecoderLayer", "EncoderLayer"))]


def freeze_unused(model):
    """What LLaVA does not use of its encoder gets no gradient, which DDP takes for an error."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("post_layernorm" not in name)
