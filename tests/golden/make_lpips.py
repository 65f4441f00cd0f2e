"""Writes lpips.npz: distances of the lpips package between random images.

    pip install torch torchvision lpips==0.1.4 numpy
    python make_lpips.py

Weights are not stored: both sides draw them by name, see `drawn`.
"""

import zlib
from pathlib import Path

import numpy as np


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array's values by its name: of unit gain under ReLU, weights positive."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.startswith("lin"):
        return np.abs(values).astype(np.float32)
    if len(shape) > 1:
        return (values * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    return (0.1 * values).astype(np.float32)


def main() -> None:
    import lpips
    import torch

    net = lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False).eval()
    state = {
        name: torch.from_numpy(drawn(name, tuple(value.shape)))
        for name, value in net.state_dict().items()
        if name.startswith(("net.", "lin")) and not name.startswith("lins.")
    }
    net.load_state_dict(state, strict=False)
    random = np.random.RandomState(1)
    # Odd sizes: pooling drops what is left over.
    x, y = (random.uniform(-1, 1, (2, 3, 37, 40)).astype(np.float32) for _ in range(2))
    y[1] = 0.9 * x[1] + 0.1 * y[1]
    with torch.no_grad():
        coloured = net(torch.from_numpy(x), torch.from_numpy(y))
        grey = net(torch.from_numpy(x[:, :1]), torch.from_numpy(y[:, :1]))
    np.savez_compressed(
        Path(__file__).with_name("lpips.npz"),
        x=x,
        y=y,
        coloured=coloured.numpy().reshape(-1),
        grey=grey.numpy().reshape(-1),
    )


if __name__ == "__main__":
    main()
