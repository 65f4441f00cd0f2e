"""Searches over noises and paths while sampling: more evaluations for a higher reward.

sample = search.bound(denoise, guidance.cfg(2.0), samplers.heun(), samplers.karras(12))
find = search.best_of_n(sample, rewards.classifier(network), budget=368)
print(find.plan)
found = find(noise, labels, key)
"""

from .bound_sampler import Bound, bound
from .budget_forcing import rollover
from .candidates import best_of_n, zero_order
from .found import Best, Found, Search, SearchPlan, Trace
from .renoised_paths import paths

__all__ = [
    "Best",
    "Bound",
    "Found",
    "Search",
    "SearchPlan",
    "Trace",
    "best_of_n",
    "bound",
    "paths",
    "rollover",
    "zero_order",
]
