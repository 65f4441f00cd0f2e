"""DiT, DDPM++ and EDM2 in plain PyTorch, written as their authors' code runs them.

The peer of `torch_peers.py`, in an environment of its own. Parts have the published names, so that
a state here is read by `guidestar.models.load` like a published file.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def linear(fan_in, fan_out, bias=True):
    return nn.Linear(fan_in, fan_out, bias=bias)


class Embedder(nn.Module):
    """DiT's embedding of the time input."""

    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(linear(256, width), nn.SiLU(), linear(width, width))

    def forward(self, time):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = time[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class Attention(nn.Module):
    """Multi-head attention of DiT's blocks, as timm has it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, linear(width, 3 * width), linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """MLP of DiT's blocks."""

    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = linear(width, 4 * width), linear(4 * width, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """An adaLN-Zero block."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(width, 6 * width))

    def forward(self, x, embedding):
        parts = self.adaLN_modulation(embedding).chunk(6, dim=1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (one.unsqueeze(1) for one in parts)
        x = x + gate_a * self.attn(self.norm(x) * (1 + scale_a) + shift_a)
        return x + gate_m * self.mlp(self.norm(x) * (1 + scale_m) + shift_m)


class FinalLayer(nn.Module):
    """DiT's last layer."""

    def __init__(self, width, out):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(width, 2 * width))
        self.linear = linear(width, out)

    def forward(self, x, embedding):
        shift, scale = self.adaLN_modulation(embedding).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


class DiT(nn.Module):
    """DiT (arXiv 2212.09748), ``(x, time, labels) -> x`` channels, twice as many predicted."""

    def __init__(self, side, depth=12, width=384, heads=6, classes=1000):
        super().__init__()
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(4, width, 2, 2)
        self.t_embedder = Embedder(width)
        self.y_embedder = nn.Module()
        self.y_embedder.embedding_table = nn.Embedding(classes + 1, width)
        self.pos_embed = nn.Parameter(positions(width, side // 2), requires_grad=False)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.final_layer = FinalLayer(width, 4 * 8)

    def forward(self, x, time, label):
        batch, channels, side, _ = x.shape
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        embedding = self.t_embedder(time) + self.y_embedder.embedding_table(label)
        for block in self.blocks:
            h = block(h, embedding)
        h = self.final_layer(h, embedding).reshape(batch, side // 2, side // 2, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", h).reshape(batch, 8, side, side)[:, :channels]


def positions(width, side):
    """Return fixed sine-cosine positions, the column's half first."""
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    row, column = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    halves = []
    for place in (column, row):
        angles = place.reshape(-1, 1) * frequencies
        halves += [np.sin(angles), np.cos(angles)]
    return torch.tensor(np.concatenate(halves, axis=1)[None], dtype=torch.float32)


def stages(sides, widths, first, blocks, attends, decoder_attends_last):
    """Yield a UNet's blocks as EDM arranges them.

    A block is (part, name, fan in, fan out, attention, resampling, whether it takes a connection).
    """
    made, now = [first], first
    for level, (side, out) in enumerate(zip(sides, widths, strict=True)):
        if level:
            yield "enc", f"{side}x{side}_down", now, now, False, "down", False
            made.append(now)
        for n in range(blocks):
            yield "enc", f"{side}x{side}_block{n}", now, out, side in attends, None, False
            now = out
            made.append(now)
    for level, (side, out) in reversed(list(enumerate(zip(sides, widths, strict=True)))):
        if level == len(sides) - 1:
            yield "dec", f"{side}x{side}_in0", now, now, True, None, False
            yield "dec", f"{side}x{side}_in1", now, now, False, None, False
        else:
            yield "dec", f"{side}x{side}_up", now, now, False, "up", False
        for n in range(blocks + 1):
            here = side in attends and (n == blocks or not decoder_attends_last)
            yield "dec", f"{side}x{side}_block{n}", now + made.pop(), out, here, None, True
            now = out


def resampled(x, mode):
    """Average or repeat pixels two by two, by a filter of each channel as EDM's code does it."""
    if mode is None:
        return x
    channels = x.shape[1]
    kernel = torch.full((channels, 1, 2, 2), 1.0 if mode == "up" else 0.25)
    filtered = functional.conv_transpose2d if mode == "up" else functional.conv2d
    return filtered(x, kernel, stride=2, groups=channels)


def attended(q, k, v):
    """Attend as EDM's code does, weights as a matrix; of ``[batch head, channel, token]``."""
    weights = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(k.shape[1])).softmax(dim=2)
    return torch.einsum("nqk,nck->ncq", weights, v)


class SongBlock(nn.Module):
    """A block of DDPM++."""

    def __init__(self, fan_in, fan_out, attends, mode, width):
        super().__init__()
        self.mode, self.attends = mode, attends
        self.norm0 = nn.GroupNorm(min(32, fan_in // 4), fan_in, eps=1e-6)
        self.conv0 = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.affine = linear(width, fan_out)
        self.norm1 = nn.GroupNorm(min(32, fan_out // 4), fan_out, eps=1e-6)
        self.conv1 = nn.Conv2d(fan_out, fan_out, 3, padding=1)
        if fan_in != fan_out or mode:
            self.skip = nn.Conv2d(fan_in, fan_out, 1)
        if attends:
            self.norm2 = nn.GroupNorm(min(32, fan_out // 4), fan_out, eps=1e-6)
            self.qkv = nn.Conv2d(fan_out, 3 * fan_out, 1)
            self.proj = nn.Conv2d(fan_out, fan_out, 1)

    def forward(self, x, embedding):
        h = self.conv0(resampled(functional.silu(self.norm0(x)), self.mode))
        h = h + self.affine(embedding)[:, :, None, None]
        h = self.conv1(functional.silu(self.norm1(h)))
        x = resampled(x, self.mode)
        x = (h + (self.skip(x) if hasattr(self, "skip") else x)) * math.sqrt(0.5)
        if self.attends:
            qkv = self.qkv(self.norm2(x)).reshape(x.shape[0], x.shape[1], 3, -1)
            out = attended(*qkv.unbind(2)).reshape(x.shape)
            x = (x + self.proj(out)) * math.sqrt(0.5)
        return x


class SongUNet(nn.Module):
    """DDPM++ of CIFAR-10 (arXiv 2206.00364), unconditional, with labels of augmentation."""

    def __init__(self):
        super().__init__()
        self.map_augment = linear(9, 128, bias=False)
        self.map_layer0, self.map_layer1 = linear(128, 512), linear(512, 512)
        self.enc = nn.ModuleDict({"32x32_conv": nn.Conv2d(3, 128, 3, padding=1)})
        self.dec = nn.ModuleDict()
        self.plan = list(stages((32, 16, 8), (256,) * 3, 128, 4, (16,), True))
        for part, name, fan_in, fan_out, attends, mode, _ in self.plan:
            getattr(self, part)[name] = SongBlock(fan_in, fan_out, attends, mode, 512)
        self.dec["32x32_aux_norm"] = nn.GroupNorm(32, 256, eps=1e-6)
        self.dec["32x32_aux_conv"] = nn.Conv2d(256, 3, 3, padding=1)

    def forward(self, x, time, label):
        frequencies = (1 / 10000) ** (torch.arange(64, dtype=torch.float32) / 63)
        angles = time[:, None] * frequencies
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedding = functional.silu(self.map_layer0(embedding))
        embedding = functional.silu(self.map_layer1(embedding))
        x = self.enc["32x32_conv"](x)
        connections = [x]
        for part, name, *_, takes in self.plan:
            x = torch.cat([x, connections.pop()], dim=1) if takes else x
            x = getattr(self, part)[name](x, embedding)
            if part == "enc":
                connections.append(x)
        return self.dec["32x32_aux_conv"](functional.silu(self.dec["32x32_aux_norm"](x)))


def normalise(x, axes):
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=torch.float32)
    norm = torch.add(1e-4, norm, alpha=np.sqrt(norm.numel() / x.numel()))
    return x / norm.to(x.dtype)


def mp_silu(x):
    return functional.silu(x) / 0.596


def mp_sum(a, b, t):
    return a.lerp(b, t) / np.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a, b, t=0.5):
    first, second = a.shape[1], b.shape[1]
    scale = np.sqrt((first + second) / ((1 - t) ** 2 + t**2))
    parts = [scale / np.sqrt(first) * (1 - t) * a, scale / np.sqrt(second) * t * b]
    return torch.cat(parts, dim=1)


class MPConv(nn.Module):
    """Convolution or linear layer whose weights are normalised in use."""

    def __init__(self, fan_in, fan_out, *kernel):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, *kernel))

    def forward(self, x, gain=1):
        weight = normalise(self.weight, list(range(1, self.weight.ndim)))
        weight = (weight * (gain / np.sqrt(self.weight[0].numel()))).to(x.dtype)
        if weight.ndim == 2:
            return x @ weight.t()
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


class MPFourier(nn.Module):
    """Fourier features of magnitude 1."""

    def __init__(self, count):
        super().__init__()
        self.register_buffer("freqs", 2 * np.pi * torch.randn(count))
        self.register_buffer("phases", 2 * np.pi * torch.rand(count))

    def forward(self, x):
        return (x.ger(self.freqs) + self.phases).cos() * np.sqrt(2)


class EDM2Block(nn.Module):
    """A block of EDM2's configuration G."""

    def __init__(self, encoder, fan_in, fan_out, attends, mode, width):
        super().__init__()
        self.encoder, self.mode, self.heads = encoder, mode, fan_out // 64 if attends else 0
        self.emb_gain = nn.Parameter(torch.ones([]))
        self.conv_res0 = MPConv(fan_out if encoder else fan_in, fan_out, 3, 3)
        self.emb_linear = MPConv(width, fan_out)
        self.conv_res1 = MPConv(fan_out, fan_out, 3, 3)
        if fan_in != fan_out:
            self.conv_skip = MPConv(fan_in, fan_out, 1, 1)
        if attends:
            self.attn_qkv = MPConv(fan_out, 3 * fan_out, 1, 1)
            self.attn_proj = MPConv(fan_out, fan_out, 1, 1)

    def forward(self, x, embedding):
        x = resampled(x, self.mode)
        skip = getattr(self, "conv_skip", nn.Identity())
        if self.encoder:
            x = normalise(skip(x), 1)
        y = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(embedding, gain=self.emb_gain) + 1
        y = self.conv_res1(mp_silu(y * scale[:, :, None, None]))
        x = mp_sum(x if self.encoder else skip(x), y, 0.3)
        if self.heads:
            shape = (x.shape[0], self.heads, -1, 3, x.shape[2] * x.shape[3])
            q, k, v = normalise(self.attn_qkv(x).reshape(*shape), 2).unbind(3)
            weights = torch.einsum("nhcq,nhck->nhqk", q, k / np.sqrt(q.shape[2])).softmax(dim=3)
            y = torch.einsum("nhqk,nhck->nhcq", weights, v)
            x = mp_sum(x, self.attn_proj(y.reshape(x.shape)), 0.3)
        return x.clip_(-256, 256)


class EDM2(nn.Module):
    """EDM2-XS on 64x64 latents (arXiv 2312.02696)."""

    def __init__(self):
        super().__init__()
        widths = (128, 256, 384, 512)
        self.out_gain = nn.Parameter(torch.ones([]))
        self.emb_fourier, self.emb_noise = MPFourier(128), MPConv(128, 512)
        self.emb_label = MPConv(1000, 512)
        self.enc = nn.ModuleDict({"64x64_conv": MPConv(5, 128, 3, 3)})
        self.dec = nn.ModuleDict()
        self.plan = list(stages((64, 32, 16, 8), widths, 128, 3, (16, 8), False))
        for part, name, fan_in, fan_out, attends, mode, _ in self.plan:
            block = EDM2Block(part == "enc", fan_in, fan_out, attends, mode, 512)
            getattr(self, part)[name] = block
        self.out_conv = MPConv(128, 4, 3, 3)

    def forward(self, x, time, label):
        embedding = self.emb_noise(self.emb_fourier(time))
        one_hot = functional.one_hot(label, 1000).to(x.dtype) * np.sqrt(1000)
        embedding = mp_silu(mp_sum(embedding, self.emb_label(one_hot), 0.5))
        x = self.enc["64x64_conv"](torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        connections = [x]
        for part, name, *_, takes in self.plan:
            x = mp_cat(x, connections.pop()) if takes else x
            x = getattr(self, part)[name](x, embedding)
            if part == "enc":
                connections.append(x)
        return self.out_conv(x, gain=self.out_gain)


class Precond(nn.Module):
    """EDM's preconditioner; EDM2's files have it around the network, and its head beside it."""

    def __init__(self, network, inside, noise_scale, head=False):
        super().__init__()
        self.inside, self.noise_scale = inside, noise_scale
        self.add_module(inside, network)
        if head:
            self.logvar_fourier, self.logvar_linear = MPFourier(128), MPConv(128, 1)

    def forward(self, x, sigma, label, data=0.5):
        sigma = sigma.reshape(-1, 1, 1, 1)
        skip, norm = data**2 / (sigma**2 + data**2), (sigma**2 + data**2).sqrt()
        time = (self.noise_scale * sigma.flatten().log() / 4).expand(x.shape[0])
        found = getattr(self, self.inside)(x / norm, time, label)
        return skip * x + sigma * data / norm * found


def build(name):
    """Return a network with its preconditioner: ``dit``, ``dit-1024``, ``ddpmpp``, ``edm2``."""
    if name == "ddpmpp":
        return Precond(SongUNet(), "model", 1.0)
    if name == "edm2":
        return Precond(EDM2(), "unet", 1.0, head=True)
    return Precond(DiT(64 if name == "dit-1024" else 32), "net", 250.0)


def karras(steps, rho=7.0, low=0.002, high=80.0):
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)]).float()


@torch.no_grad()
def heun(denoise, noise, label, steps):
    """EDM's sampler without churn (algorithm 1), unguided."""
    sigmas = karras(steps)
    x = noise * sigmas[0]
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoise(x, now, label)) / now
        moved = x + (after - now) * slope
        if after > 0:
            other = (moved - denoise(moved, after, label)) / after
            moved = x + (after - now) * (slope + other) / 2
        x = moved
    return x


@torch.no_grad()
def guided_euler(denoise, noise, label, steps, scale=3.0, null=1000):
    """Euler's steps with classifier-free guidance, both branches in one batch."""
    sigmas, batch = karras(steps), noise.shape[0]
    x, labels = noise * sigmas[0], torch.cat([label, torch.full_like(label, null)])
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        given, empty = denoise(torch.cat([x, x]), now, labels).split(batch)
        guided = empty + scale * (given - empty)
        x = x + (after - now) * (x - guided) / now
    return x


class Trainer:
    """EDM's loss, AdamW, an average of the weights: a step as the papers' loops take it."""

    def __init__(self, denoise, classes):
        self.denoise, self.classes = denoise, classes
        self.params = [one for one in denoise.parameters() if one.requires_grad]
        self.average = [one.detach().clone() for one in self.params]
        self.optimizer = torch.optim.AdamW(self.params, 1e-4, (0.9, 0.99), 1e-8, 0.0)

    def step(self, x, label):
        batch = x.shape[0]
        sigma = (torch.randn(batch) * 1.2 - 1.2).exp()
        if self.classes:
            label = torch.where(torch.rand(batch) < 0.1, self.classes, label)
        column = sigma.reshape(-1, 1, 1, 1)
        weight = (column**2 + 0.25) / (column * 0.5) ** 2
        found = self.denoise(x + column * torch.randn_like(x), sigma, label)
        loss = (weight * (found - x) ** 2).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.params, 1e-3)
        return float(loss)
