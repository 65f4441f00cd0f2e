"""Write extractors.npz: what other libraries' feature extractors make of random images.

Run by hand where torch, torchvision, pytorch-fid, torch-fidelity, transformers and timm are
installed (2.13, 0.29, 0.3.0, 0.4.0, 5.24 and 1.0.31 made the file):

    python tests/golden/make_extractors.py

No weights are stored: both sides draw them by name, see `drawn`. InceptionV3 is torch-fidelity's,
once as it is and once with a sixteenth of its channels, and pytorch-fid's for what it resizes by;
DINOv2 is that of transformers and of timm, in miniature, and CLIP's image tower of transformers.
"""

import sys
import types
import zlib
from pathlib import Path

import numpy as np

NARROW = 16
# The transformers in miniature: 4 x 4 patches, positions of 6 x 6.
WIDTH, HEADS, DEPTH, PATCH, SIDE, LEARNT, REGISTERS = 24, 2, 2, 14, 56, 6, 4
OUTPUT = 20  # of CLIP's projection


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array's values by its name: of unit gain, nothing 0 and variances away from 1."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = np.exp(0.5 * values)
    elif len(shape) == 4 or (len(shape) == 2 and min(shape) > 1 and "position" not in name):
        values *= np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith(("weight", "gamma", "lambda1")):
        values = 1 + 0.3 * values
    else:
        values *= 0.3
    return values.astype(np.float32)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Return smooth colour images, uint8 of ``[batch, h, w, c]``, whose edges differ."""
    batch, height, width, channels = shape
    random = np.random.RandomState(seed)
    waves = random.uniform(0.5, 4, (2, 1, batch, 1, 1, channels))
    phases = random.uniform(0, 6, (2, batch, 1, 1, channels))
    down, across = np.linspace(0, 3, height), np.linspace(0, 3, width)
    picture = np.sin(waves[0, 0] * down[:, None, None] + phases[0])
    picture = picture * np.cos(waves[1, 0] * across[:, None] + phases[1])
    noise = random.uniform(-20, 20, shape)
    return np.clip(127 + 110 * picture + noise, 0, 255).astype(np.uint8)


def without_operators() -> None:
    """Let torchvision be imported beside a torch that its compiled part was not built for."""
    name = "torchvision._meta_registrations"
    sys.modules[name] = types.ModuleType(name)


def fill(module):
    """Give a torch module the weights that its arrays' names stand for."""
    import torch

    state = {
        name: value if "num_batches" in name else torch.from_numpy(drawn(name, tuple(value.shape)))
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval()


def channels_first(x: np.ndarray):
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def inception() -> dict:
    import torch
    import torch_fidelity.feature_extractor_inceptionv3 as published

    names = ["2048", "logits_unbiased", "logits"]
    start, linear = published.BasicConv2d.__init__, torch.nn.Linear

    class Extractor(published.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            """Leave the weights as they are: the published ones are not fetched."""

    def narrow(self, fan_in, width, **options):
        start(self, fan_in if fan_in == 3 else fan_in // NARROW, width // NARROW, **options)

    def made():
        network = Extractor("inception-v3-compat", names)
        network.load_state_dict = types.MethodType(torch.nn.Module.load_state_dict, network)
        return fill(network)

    published.load_state_dict_from_url = lambda *given, **options: None
    found = {}
    whole = made()
    x = images(2, 64, 48, 3)
    for name, value in zip(names, whole(channels_first(x)), strict=True):
        found[f"inception_whole/{name}"] = value[:, :: 1 if name == "2048" else 8]
    published.BasicConv2d.__init__ = narrow
    torch.nn.Linear = lambda fan_in, classes: linear(fan_in // NARROW, classes)
    small = made()
    published.BasicConv2d.__init__, torch.nn.Linear = start, linear
    spatial = []
    small.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, given, output: spatial.append(output)
    )
    outputs = small(channels_first(x))
    found |= {f"inception/{name}": one for name, one in zip(names, outputs, strict=True)}
    found["inception/spatial"] = spatial[0]
    for height, width in ((32, 32), (299, 299), (400, 310)):
        resized = published.interpolate_bilinear_2d_like_tensorflow1x(
            channels_first(images(1, height, width, 3)).float(), (299, 299), align_corners=False
        )
        found[f"graph/{height}x{width}"] = resized[0, :, ::23, ::17]
    return found


def pytorch_fid() -> dict:
    """Return what the first layer is given by pytorch-fid, of images from 0 to 1."""
    import pytorch_fid.inception as published
    import torch

    same = torch.nn.Identity()
    layers = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
    published.fid_inception_v3 = lambda: types.SimpleNamespace(**dict.fromkeys(layers, same))
    network = published.InceptionV3([0])
    network.blocks = torch.nn.ModuleList([same])
    found = {}
    for height, width in ((32, 32), (299, 299), (400, 310)):
        (given,) = network(channels_first(images(1, height, width, 3)).float() / 255)
        found[f"pytorch_fid/{height}x{width}"] = given[0, :, ::23, ::17]
    return found


def pixels(*shape: int) -> np.ndarray:
    return np.random.RandomState(5).standard_normal(shape).astype(np.float32)


def dinov2() -> dict:
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    sizes = dict(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        patch_size=PATCH,
        image_size=LEARNT * PATCH,
    )
    x = channels_first(pixels(2, SIDE, SIDE, 3))
    wide = channels_first(pixels(2, LEARNT * PATCH, LEARNT * PATCH, 3))
    plain = fill(Dinov2Model(Dinov2Config(**sizes)))
    with_registers = fill(
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=REGISTERS, **sizes))
    )
    found = {
        "dinov2/plain": plain(x).pooler_output,
        "dinov2/plain_learnt": plain(wide).pooler_output,
        "dinov2/registers": with_registers(x).pooler_output,
    }
    for registers in (0, REGISTERS):
        network = VisionTransformer(
            img_size=SIDE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            init_values=1.0,
            num_classes=0,
            reg_tokens=registers,
            no_embed_class=bool(registers),
        )
        found[f"dinov2/timm_{registers}"] = fill(network)(x)
    for side, patches in ((37, 16), (37, 24), (16, 37)):
        learnt = channels_first(pixels(1, side, side, 2))
        scales = [(patches + 0.1) / side] * 2
        for name, options in {
            "offset": dict(scale_factor=scales),
            "plain": dict(size=(patches, patches)),
            "antialias": dict(size=(patches, patches), antialias=True),
        }.items():
            resized = torch.nn.functional.interpolate(learnt, mode="bicubic", **options)
            found[f"positions/{name}_{side}_{patches}"] = resized
    for height, width in ((32, 32), (224, 224), (300, 250)):
        x = channels_first(images(1, height, width, 3)).float()
        resized = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
        found[f"antialias/{height}x{width}"] = resized[0, :, ::17, ::13]
    return found


def clip() -> dict:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        patch_size=PATCH,
        image_size=SIDE,
        projection_dim=OUTPUT,
    )
    network = fill(CLIPVisionModelWithProjection(config))
    return {"clip": network(channels_first(pixels(2, SIDE, SIDE, 3))).image_embeds}


def main() -> None:
    import torch

    without_operators()
    with torch.no_grad():
        found = inception() | pytorch_fid() | dinov2() | clip()
    arrays = {name: value.numpy().astype(np.float32) for name, value in found.items()}
    path = Path(__file__).with_name("extractors.npz")
    np.savez_compressed(path, **arrays)
    for name, value in arrays.items():
        print(name, value.shape, float(value.std()))
    print(path.stat().st_size)


if __name__ == "__main__":
    main()
