"""Losses in which several networks take part, and few-step students: one family a file.

What families share, each in its own file: `teacher` (a field of any network, rule and solver),
`pairs` (noise levels), `curricula` (what changes while training), `distances`, `scales` (a guidance
scale as an input), `tangents` (forward mode), `velocities` (of flow maps), `fake` (a denoiser of
what the student makes), `generators` (one jump from noise), `matching` (the laws of a generator and
a teacher).
"""

from . import dmd, score_identity
from .cca import Contrastive
from .consistency import DiscreteConsistency
from .ctm import Trajectory
from .guidance_free import GuidanceFree, ModelGuidance
from .guided import GuidedDistillation
from .matching import DistributionMatching
from .mean_flow import MeanFlow
from .output import DenoisingToTeacher
from .progressive import Progressive
from .scm import ContinuousConsistency
from .score_difference import ScoreDifference, score_difference_flow
from .shortcut import Shortcut

__all__ = [
    "ContinuousConsistency",
    "Contrastive",
    "DenoisingToTeacher",
    "DiscreteConsistency",
    "DistributionMatching",
    "GuidanceFree",
    "GuidedDistillation",
    "MeanFlow",
    "ModelGuidance",
    "Progressive",
    "ScoreDifference",
    "Shortcut",
    "Trajectory",
    "dmd",
    "score_difference_flow",
    "score_identity",
]
