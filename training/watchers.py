"""What a run does beside its steps, every so many of them: the contract, and when it is due."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from ..models.denoiser import Denoiser
from .losses.loss import MAIN, Role
from .state import Recipe, TrainState


@runtime_checkable
class Watcher(Protocol):
    """Previews, snapshots and evaluators: what looks at a run's state and changes nothing."""

    def due(self, step: int, *, last: bool) -> bool:
        """Say whether it wants the state after ``step``, counted from 1; asked after every one."""
        ...

    def run(self, step: int, state: TrainState) -> Mapping[str, float]:
        """Look at the state; return values to be recorded. Called by every host."""
        ...


@runtime_checkable
class Evaluator(Protocol):
    """A measurement of the averaged networks, passed in by whoever starts a run."""

    def run(self, step: int, networks: Mapping[str, Role]) -> Iterator[tuple[str, float]]:
        """Yield names and values.

        Args:
            step: after which the networks are measured.
            networks: by role, their main average where there is one.
        """
        ...


class Evaluation:
    """Run an evaluator every so many images, and after the last step.

    Args:
        evaluator: what is run.
        every_images: 0 for never.
        batch_size: images a step.
        recipe: says which averages there are.
        networks: by role, without their parameters.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        every_images: int,
        batch_size: int,
        recipe: Recipe,
        networks: Mapping[str, Role],
    ):
        self._evaluator, self._every, self._batch_size = evaluator, every_images, batch_size
        self._recipe, self._networks = recipe, networks

    def due(self, step: int, *, last: bool) -> bool:
        """Say whether a multiple of the interval was reached in ``step``, or it is the last."""
        return reached(step, self._every, self._batch_size) or (last and self._every > 0)

    def run(self, step: int, state: TrainState) -> dict[str, float]:
        """Return the evaluator's values."""
        params = averaged(self._recipe, state)
        networks = {role: one._replace(params=params[role]) for role, one in self._networks.items()}
        return {name: float(value) for name, value in self._evaluator.run(step, networks)}


def averaged(recipe: Recipe, state: TrainState) -> dict[str, Any]:
    """Return every network's main average by role, or its parameters where none is kept."""
    found = {}
    for role, one in state.roles.items():
        update = recipe.updates.get(role)
        kept = update is not None and update.averages is not None
        found[role] = update.averages.main(one.ema) if kept else one.params
    return found


def reached(step: int, every_images: int, batch_size: int) -> bool:
    """Say whether a multiple of so many images was reached in ``step``, counted from 1."""
    if not every_images:
        return False
    after, before = (n * batch_size // every_images for n in (step, step - 1))
    return after > before


def main_denoiser(networks: Mapping[str, Role]) -> Denoiser:
    """Return the network that is trained as a denoiser."""
    return networks[MAIN].denoiser
