"""Networks that several jobs share: each is read once, and those of one job at a time are held."""

import dataclasses
from collections.abc import Iterable, Mapping

from ..core.errors import UserError
from ..core.files import digest_of
from ..models.checkpoints.loading import outline
from ..runtime.memory import return_memory
from .job import Job
from .networks import Weights, read_weights


class SharedNetworks:
    """The networks of jobs that run one after another.

    Networks are told apart by the digest of their weights and of what they are built by, so that
    two paths of one file, or one file under two names, are one network.
    """

    def __init__(self) -> None:
        self._outlines: dict[tuple[str, str], Weights] = {}
        self._held: dict[str, Weights] = {}

    def outlines(self, sources: Mapping[str, str]) -> dict[str, Weights]:
        """Return networks as shapes alone, from which a job can be built and planned.

        Args:
            sources: weights by network name; those that are empty are left out.

        Raises:
            UserError: as `networks.read_weights`.
        """
        for name, source in sources.items():
            if source and (name, source) not in self._outlines:
                self._outlines[name, source] = read_weights(name, source, read=outline)
        return {name: self._outlines[name, one] for name, one in sources.items() if one}

    def ready(self, job: Job) -> Job:
        """Return a job that was built from outlines with its networks read.

        Networks of earlier jobs that this one does not use are let go of.

        Raises:
            UserError: a weight file was replaced since its outline was made.
        """
        wanted = {name: _key(one) for name, one in job.weights.items()}
        before = len(self._held)
        self._held = {key: self._held[key] for key in wanted.values() if key in self._held}
        if len(self._held) < before or not before:
            return_memory()
        for name, key in wanted.items():
            if key in self._held:
                continue
            place = job.weights[name].place
            self._held[key] = read_weights(name, place)
            if _key(self._held[key]) != key:
                raise UserError(f"{place} was replaced while this ran: run the same command again")
        weights = {name: self._held[key] for name, key in wanted.items()}
        networks = {name: one.network for name, one in weights.items()}
        return dataclasses.replace(job, networks=networks, weights=weights)


def _key(weights: Weights) -> str:
    return digest_of(dict(weights.made_of))


def grouped(jobs: Mapping[str, Job]) -> Iterable[str]:
    """Return the names of jobs in an order in which those of the same networks are neighbours."""
    kinds: dict[tuple, list[str]] = {}
    for name, job in jobs.items():
        kind = tuple(sorted({_key(one) for one in job.weights.values()}))
        kinds.setdefault(kind, []).append(name)
    # Next to each other, too, are those that share some of them.
    return [name for kind in sorted(kinds) for name in kinds[kind]]
