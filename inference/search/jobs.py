"""A sampling job each of whose images is searched for."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ...core.errors import NoResult, UserError
from ..job import Job, not_finite, numbered
from .found import Search, Trace


class Mark(NamedTuple):
    """The best samples at one point of a search.

    Attributes:
        evaluations: that had been made for each.
        x: the samples.
    """

    evaluations: Int[np.ndarray, " batch"]
    x: Float[np.ndarray, " batch *shape"]


class Searched(NamedTuple):
    """What a batch of searches has found.

    Attributes:
        plain: what the sampler makes without a search, at the cost of a run beside the budget.
        marks: the best after points 1, 2, 4, 8, ... of the search, and in the end.
        trace: of all points.
    """

    plain: Float[np.ndarray, " batch *shape"]
    marks: list[Mark]
    trace: Trace


@dataclasses.dataclass(frozen=True)
class SearchedJob(Job):
    """A job that searches for its images.

    Attributes:
        find: the search, around the job's own sampler.
        sought: JSON data: how it searches, and for what.
        keep: is told what was found for images with these indices, before they are returned.
    """

    find: Search = dataclasses.field(kw_only=True)
    sought: Mapping[str, Any] = dataclasses.field(kw_only=True)
    keep: Callable[[np.ndarray, Searched], None] = dataclasses.field(kw_only=True)

    @classmethod
    def of(cls, job: Job, **search: Any) -> "SearchedJob":
        """Return a job's search, with the attributes of this class."""
        fields = {one.name: getattr(job, one.name) for one in dataclasses.fields(Job)}
        return cls(**fields, **search)

    def made_of(self):
        """Return what decides the images: the search, too."""
        return super().made_of() | {"search": dict(self.sought)}

    def cost(self):
        """Return the search's plan, and what a run costs."""
        return f"{self.find.plan}, and a run beside it to compare; {super().cost()} a run"

    def finite_images(self, indices):
        """Search for the images with these indices.

        Raises:
            UserError: what `samplers.sample` refuses.
            NoResult: images that are not finite.
        """
        plain = super().finite_images(indices)
        start, count = self.start(indices), len(indices)
        marks: dict[int, Mark] = {}

        def marked(found) -> Mark:
            x = np.asarray(jax.device_get(found.x))[:count]
            return Mark(found.trace.evaluations[-1, :count], x)

        def mark(found) -> None:
            points = len(found.trace.reward)
            if not points & (points - 1):
                marks[points] = marked(found)

        sample = dataclasses.replace(self.find.sample, denoise=start.networks)
        find = dataclasses.replace(self.find, sample=sample)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are among the notes
            try:
                found = find(start.noise, start.labels, start.keys, until=mark)
            except ValueError as error:
                raise UserError(str(error)) from error
        marks[len(found.trace.reward)] = last = marked(found)
        if (bad := not_finite(last.x)).size:
            raise NoResult(
                f"{numbered(indices, bad)} not finite once searched for, and nothing was written: "
                f"a plain sample is, so the reward likes what is none"
            )
        trace = Trace(*(values[:, :count] for values in found.trace))
        self.keep(np.asarray(indices), Searched(plain, list(marks.values()), trace))
        return last.x
