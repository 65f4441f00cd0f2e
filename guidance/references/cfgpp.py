"""CFG++: guide the clean image, renoise it with the reference's noise (arXiv 2406.08070)."""

from jaxtyping import Array

from ...core.pytrees import replaced
from ...core.registry import register
from ..protocol import MAIN, require_finite
from ..pushes import Push, Scale
from .cfg import null


@register("rule", "2406.08070")
def cfgpp(scale: float | Array = 0.6, *, network: str = MAIN) -> Push:
    r"""Return CFG++: ``D = D_null + scale * (D_given - D_null)``, renoised from ``D_null``.

    One DDIM step is ``x' = D + sigma' (x - D_null) / sigma``. It equals a step of `cfg` with the
    scale ``scale * sigma / (sigma - sigma')``, which grows without bound as steps get shorter:
    this is no consistent discretisation of an ODE, and the scale has to be tuned again for
    another number of steps. At 50 steps the paper pairs it with scales of `cfg` as follows.

    ========  ====  ====  ====  ====  ====
    ``cfgpp``  0.2   0.4   0.6   0.8   1.0
    ``cfg``    2     5     7.5   9     12.5
    ========  ====  ====  ====  ====  ====

    Runs with the solvers that say how they renoise (`samplers.euler`, `ancestral`,
    `dpmpp_2s_ancestral`, `dpmpp`); the others refuse it.

    Equation:
        x' = D + \sigma' \frac{x - D_\varnothing}{\sigma}, \quad D = D_\varnothing + \lambda
        (D_y - D_\varnothing)

    When to use: For inversion and editing, where samples must stay close to what the
    unconditional network follows. Its scale lies in 0 to 1 and depends on the number of steps.

    Args:
        scale: the paper's lambda, in [0, 1]. 0 is the unconditional sampler. 1 gives the plain
            prediction, still renoised from the unconditional one, so it is not off: use
            `unguided` for that.
        network: which network gives the unconditional prediction.

    Raises:
        ValueError: scale not finite.

    Source: Chung et al., arXiv 2406.08070, algorithm 2.
    """
    require_finite("cfgpp", scale=scale)
    return Push(Scale(scale), null(network), renoise=True)


@register("rule", "2406.08070")
def renoised(push: Push) -> Push:
    r"""Return ``push`` with its reference as the source of the noise, as CFG++ has it.

    ``renoised(apg(4.0))`` is APG++, ``renoised(autoguidance(1.5))`` renoises from the guide. The
    scale of the push keeps its meaning, but acts far more strongly: see `cfgpp`.

    Equation:
        x' = D + \sigma' \frac{x - D_\text{ref}}{\sigma}, \quad D = D_\text{ref} + w (D_y -
        D_\text{ref})

    When to use: CFG++ for any reference and any transform. Begin with a scale near 1, which is
    not off here.

    Raises:
        TypeError: a rule that is no single push away from a reference.

    Source: Chung et al., arXiv 2406.08070, for any reference.
    """
    return replaced(push, renoise=True)
