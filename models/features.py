"""Features inside a UNet: read them, and put others in their place (h-space, skip connections).

The h-space is the output of the bottleneck (Kwon et al., arXiv 2210.10960); skip connections are
numbered in the order in which the encoder makes them. Both are sites of every UNet here, so that
whatever is read can be written: ``denoiser(x, sigma, label, modes=((Replace(h), None),))``.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..core.sites import EVERY_LAYER, H_SPACE, SKIP

PLACES = (H_SPACE, SKIP)


def read(
    denoiser: Any,
    x: Float[ArrayLike, " batch *shape"],
    sigma: Float[ArrayLike, ""] | Float[ArrayLike, " batch"] | float,
    condition: Any = None,
    modes: tuple = (),
) -> tuple[Float[Array, " batch *shape"], dict[str, Any]]:
    """Denoise, and return the features on the way as well.

    Args:
        denoiser: a UNet's `Denoiser`, or any callable with its ``sites`` and its arguments.
        x: noisy samples, EDM coordinates.
        sigma: their noise level.
        condition: as in the denoiser's call.
        modes: pairs (mode, where) that step in before the features are read.

    Returns:
        The x0 estimate, and ``{"h_space": [batch, h, w, c], "skip": (...)}``: the bottleneck's
        output and every skip connection, the finest first.

    Raises:
        ValueError: a network that offers no features.
    """
    sites = getattr(denoiser, "sites", ())
    for site in PLACES:
        if site not in sites:
            raise ValueError(
                f"features are read at the sites {' and '.join(PLACES)} of a UNet, and this "
                f"network offers {', '.join(sites) or 'no site'}: take a UNet"
            )
    bottleneck, connections = _Reader(H_SPACE), _Reader(SKIP)
    readers = ((bottleneck, None), (connections, None))
    denoised = denoiser(x, sigma, condition, modes=(*modes, *readers))
    # A decoder takes its connections last in, first out.
    found = {H_SPACE: bottleneck.seen[0], SKIP: tuple(reversed(connections.seen))}
    return denoised, found


class _Reader:
    """Keeps what passes through a site, within one trace, and leaves it as it is."""

    name = "features"
    layers = EVERY_LAYER

    def __init__(self, site: str):
        self.site = site
        self.seen: list[Array] = []

    def h_space(self, features):
        self.seen.append(features)
        return features

    skip = h_space


@dataclasses.dataclass(frozen=True)
class _Edit:
    features: Float[Array | np.ndarray, "..."]
    site: str = dataclasses.field(default=H_SPACE, metadata={"static": True})
    layers: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        if self.site not in PLACES:
            raise ValueError(f"features are at {' or '.join(PLACES)}, got the site {self.site!r}")
        if (self.layers is None) == (self.site == SKIP):
            raise ValueError(
                f"{self.site}: say which skip connections, such as layers=(3,); the h-space is one "
                f"place and takes no layers"
            )

    def h_space(self, features):
        return self._edited(features)

    def skip(self, features):
        return self._edited(features)

    def _fitting(self, features):
        given = jnp.asarray(self.features)
        try:
            return jnp.broadcast_to(given, features.shape).astype(features.dtype)
        except ValueError:
            where = self.site if self.layers is None else f"{self.site} {self.layers}"
            raise ValueError(
                f"{self.name}: features of shape {given.shape} do not fit those of the network at "
                f"its {where}, {features.shape}"
            ) from None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replace(_Edit):
    """A mode that puts features in the place of the network's own.

    Attributes:
        features: ``[batch, h, w, c]``, or what broadcasts to it.
        site: "h_space" or "skip".
        layers: which skip connections; None at the h-space.
    """

    name: ClassVar[str] = "replaced_features"

    def _edited(self, features):
        return self._fitting(features)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Add(_Edit):
    """A mode that adds ``scale * features`` to the network's own, as directions in h-space are.

    Attributes:
        features, site, layers: as of `Replace`.
        scale: factor; a number, or one a sample.
    """

    scale: float | Array | np.ndarray = 1.0

    name: ClassVar[str] = "added_features"

    def _edited(self, features):
        scale = jnp.asarray(self.scale, features.dtype)
        scale = scale.reshape((-1,) + (1,) * (features.ndim - 1)) if scale.ndim else scale
        return features + scale * self._fitting(features)
