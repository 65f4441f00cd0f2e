"""One entry a solver: what every property test runs over.

Solvers of particles and of candidates are not here: particles are one sample together, and all of
these look at clean samples: see `test_feynman_kac`, `test_steer`, `test_svdd` and `test_twisted`.
"""

from collections.abc import Callable
from typing import NamedTuple

from guidestar import samplers
from guidestar.samplers.solvers.statistics import degenerate

# One sample's shape, and the number of steps of tests that take one schedule.
SHAPE, STEPS = (4, 4, 1), 6


class Entry(NamedTuple):
    """A solver and what it is expected to cost.

    Attributes:
        solver: as `samplers.sample` takes it.
        evaluations: of n steps that end in 0, with a rule of one branch.
        least: the fewest steps it takes.
        steps: the number of steps it is made for; None for any.
        random: whether it adds noise.
    """

    solver: samplers.Solver
    evaluations: Callable[[int], int] = lambda n: n
    least: int = 1
    steps: int | None = None
    random: bool = False

    def counts(self) -> list[int]:
        """Return the numbers of steps that tests of all lengths take."""
        return [self.steps] if self.steps else sorted({self.least, max(self.least, 2), 7})


def stages(count: int) -> Callable[[int], int]:
    """Return the evaluations of so many stages a step, but one in the step to 0."""
    return lambda n: count * (n - 1) + 1


# Statistics of no network, between those of data and of noise prediction.
STATISTICS = degenerate(SHAPE, 1e-3, 200.0, intervals=40)
CHOICES = [
    ("data", 1, False),
    ("noise", 2, False),
    ("data", 2, True),
    ("data", 3, False),
    ("noise", 3, True),
    ("data", 1, False),
]
SOLVERS = {
    "euler": Entry(samplers.euler()),
    "heun": Entry(samplers.heun(), stages(2)),
    "midpoint": Entry(samplers.heun(0.5), stages(2)),
    "dpm_2": Entry(samplers.dpm_2(), stages(2)),
    "dpm_solver_3": Entry(samplers.dpm_solver(3), stages(3)),
    "dpm_solver_2m": Entry(samplers.dpm_solver(2, singlestep=False), least=2),
    "dpmpp": Entry(samplers.dpmpp(), least=2),
    "dpmpp_taylor": Entry(samplers.dpmpp(slope="taylor"), least=2),
    "dpmpp_3m": Entry(samplers.dpmpp(3), least=3),
    "dpmpp_3m_published": Entry(samplers.dpmpp(3, as_published=True), least=3),
    "dpmpp_2s": Entry(samplers.dpmpp(2, singlestep=True), stages(2)),
    "dpmpp_3s": Entry(samplers.dpmpp(3, singlestep=True), stages(3)),
    "dpmpp_budget": Entry(
        samplers.dpmpp(3, singlestep=True, evaluations=15), lambda n: 15, steps=STEPS
    ),
    "unipc": Entry(samplers.unipc(2), least=2),
    "unipc_3": Entry(samplers.unipc(3, "bh1"), least=3),
    "unip": Entry(samplers.unipc(3, corrector=False), least=3),
    "dpm_solver_v3": Entry(samplers.dpm_solver_v3(STATISTICS), least=2),
    "evodiff": Entry(samplers.evodiff()),
    "lms": Entry(samplers.lms(4), least=4),
    "ipndm": Entry(samplers.ipndm(3), least=3),
    "ipndm_v": Entry(samplers.ipndm_v(4), least=4),
    "deis_tab": Entry(samplers.deis(3), least=3),
    "deis_rhork": Entry(samplers.deis(3, "rhork"), stages(3)),
    "pndm": Entry(samplers.pndm(), lambda n: n + 9, least=4),
    "per_step": Entry(samplers.per_step(CHOICES), steps=STEPS),
    "ctm": Entry(samplers.ctm()),
    "ancestral": Entry(samplers.ancestral(), random=True),
    "ancestral_beta": Entry(samplers.ancestral(variance="beta"), random=True),
    "dpm_2_ancestral": Entry(samplers.dpm_2_ancestral(), stages(2), random=True),
    "dpmpp_2s_ancestral": Entry(samplers.dpmpp_2s_ancestral(), stages(2), random=True),
    "dpmpp_sde": Entry(samplers.dpmpp_sde(), stages(2), random=True),
    "dpmpp_2m_sde": Entry(samplers.dpmpp_2m_sde(), least=2, random=True),
    "dpmpp_3m_sde": Entry(samplers.dpmpp_3m_sde(), least=3, random=True),
    "sa_solver": Entry(samplers.sa_solver(), least=2, random=True),
    "edm_churn": Entry(samplers.edm_churn(), stages(2), random=True),
    # At full norm it refuses steps as long as a schedule of two has.
    "euler_maruyama": Entry(samplers.euler_maruyama(norm=0.25), random=True),
    "recur": Entry(samplers.recur(samplers.ancestral(), 2), stages(2), random=True),
    "consistency": Entry(samplers.consistency(), random=True),
    "ctm_random": Entry(samplers.ctm(0.5), random=True),
}
