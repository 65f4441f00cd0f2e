"""An average of any width from a run's snapshots."""

from pathlib import Path

from ..core.checks import require_choice, require_ranges
from ..core.errors import UserError
from ..models.checkpoints.files import FLOATS, sidecar_of
from ..runtime.run_folder import EVALUATION, RUN, SAMPLES, Folder
from ..training.averages.ema import WIDTH
from ..training.averages.posthoc_ema import reconstruct_to, snapshots_below, std_in_names
from .config.training import EMA, plain, require_own

# What this mode reads of a config.
READS = (
    "ema.reconstruct",
    "ema.at_images",
    "ema.reconstruct_dtype",
)
# What its work folder becomes, and may hold before.
WORKDIR = Folder(beside=(RUN, SAMPLES, EVALUATION))


def run(config, workdir: Path) -> Path:
    """Write ``<workdir>/<config.name>-<std>.safetensors``, an average of any width.

    Args:
        config: an experiment's config; ``ema.reconstruct`` is the width, ``ema.at_images`` when
            (0 for the last snapshot), ``ema.reconstruct_dtype`` float16 or float32.
        workdir: of the run that stored snapshots.

    Raises:
        UserError: no width, no snapshots, or as in `reconstruct_to`.
    """
    section = config.ema
    if not section.reconstruct:
        raise UserError("ema.reconstruct is 0: say which relative width to make, such as 0.15")
    require_ranges("ema", plain(section), {"reconstruct": WIDTH, "at_images": EMA["at_images"]})
    require_choice("ema.reconstruct_dtype", section.reconstruct_dtype, FLOATS)
    path = workdir / f"{config.name}-{std_in_names(section.reconstruct)}.safetensors"
    require_own(path, lambda sidecar: sidecar.get("weights") == "post-hoc average", "ema")
    reconstruct_to(
        path,
        snapshots_below(workdir),
        section.reconstruct,
        section.at_images or None,
        FLOATS[section.reconstruct_dtype],
    )
    about = (sidecar_of(path) or {})["ema"]
    print(
        f"wrote {path} ({path.stat().st_size / 2**20:.2f} MiB): std {about['std']:g} at "
        f"{about['images']:,} images from {len(about['snapshots'])} snapshots, relative error of "
        f"the profile {about['profile_error']:.1e}"
    )
    return path
