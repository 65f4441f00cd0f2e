"""Writes torch_files/ with torch itself (2.13): run by hand where torch is installed.

`tensors.npz` has the same values as `zip.pt`, `legacy.pt` and `no_checksums.pt`, bfloat16 as
float32.
"""

import argparse
import collections
import os
import pickle
from pathlib import Path

import numpy as np
import torch

os.chdir(Path(__file__).parent / "torch_files")  # torch writes the file's name into it
torch.manual_seed(0)
base = torch.randn(6, 4)
noted = torch.nn.Parameter(torch.randn(2))
noted.note = "an attribute makes torch use another constructor"
tensors = collections.OrderedDict(
    weight=torch.randn(3, 5),
    half=torch.randn(4).half(),
    bfloat=torch.randn(2, 3).bfloat16(),
    shared_first=base[:3],
    shared_last=base[2:],
    transposed=base.t(),
    strided=base[::2, 1::2],
    expanded=torch.randn(1, 3).expand(2, 3),
    scalar=torch.tensor(2.5),
    empty=torch.zeros(0, 3),
    long=torch.tensor([2**40, -1]),
    bool=torch.tensor([True, False]),
    double=torch.randn(2).double(),
    int8=torch.tensor([-1], dtype=torch.int8),
    uint8=torch.tensor([255], dtype=torch.uint8),
    int16=torch.tensor([-300], dtype=torch.int16),
    int32=torch.tensor([70000], dtype=torch.int32),
    uint16=torch.tensor([65535], dtype=torch.uint16),
    complex=torch.randn(2, dtype=torch.complex64),
    parameter=torch.nn.Parameter(torch.randn(2)),
    noted=noted,
)


def array(tensor):
    tensor = tensor.detach().contiguous()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


np.savez("tensors.npz", **{name: array(tensor) for name, tensor in tensors.items()})
torch.save(tensors, "zip.pt")
torch.save(tensors, "legacy.pt", _use_new_zipfile_serialization=False)
torch.serialization.set_crc32_options(False)
torch.save(tensors, "no_checksums.pt")
torch.serialization.set_crc32_options(True)

net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.SiLU(), torch.nn.Linear(3, 1))
opt = torch.optim.AdamW(net.parameters(), lr=1e-4)
net(torch.ones(1, 2)).sum().backward()
opt.step()
args = argparse.Namespace(
    model="DiT-XL/2",
    lr=np.float64(1e-4),
    sizes=[2, 3],
    dtype=torch.float16,
    device=torch.device("cuda", 0),
    shape=torch.Size([1, 2]),
    noise=np.arange(6.0).reshape(2, 3),
)
checkpoint = dict(
    model=net.state_dict(),
    ema={name: tensor * 2 for name, tensor in net.state_dict().items()},
    opt=opt.state_dict(),
    args=args,
    train_steps=3,
)
torch.save(checkpoint, "checkpoint.pt")
torch.save({"x": torch.zeros(2).to(torch.float8_e4m3fn)}, "float8.pt")
torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "script.pt")
with open("modules.pkl", "wb") as file:
    pickle.dump({"ema": net, "epoch": 2}, file)
