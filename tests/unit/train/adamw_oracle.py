"""torch.optim.AdamW over raw fp32 files: the oracle of adamw_test.

usage: adamw_oracle.py FOLDER COUNT STEPS LR DECAY CLIP
Reads parameters.bin and gradient_<t>.bin, writes expected.bin.
"""
import sys

import numpy as np
import torch


def main():
    folder, count, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    lr, decay, clip = (float(value) for value in sys.argv[4:7])
    torch.set_num_threads(1)

    def read(name):
        return torch.from_numpy(np.fromfile(f"{folder}/{name}", dtype=np.float32).copy())

    parameter = torch.nn.Parameter(read("parameters.bin"))
    assert parameter.numel() == count
    optimizer = torch.optim.AdamW([parameter], lr=lr, weight_decay=decay, foreach=False, fused=False)
    norms = []
    for step in range(1, steps + 1):
        parameter.grad = read(f"gradient_{step}.bin")
        norms.append(float(torch.nn.utils.clip_grad_norm_([parameter], clip)))
        optimizer.step()
    parameter.detach().numpy().tofile(f"{folder}/expected.bin")
    np.array(norms, dtype=np.float64).tofile(f"{folder}/norms.bin")


main()
