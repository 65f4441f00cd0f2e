"""Images through a classifier: features, predicted classes, and the statistics of a real set."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise

from ... import input_pipeline
from ...core.errors import UserError
from ...models.checkpoints import Loaded, load
from ..metrics.appearance import contrast, white
from ..metrics.frechet import Moments, frechet_distance, moments
from ..metrics.manifold import manifold_scores

BATCH = 250
# Real images whose features are kept for precision and recall.
MANIFOLD_IMAGES = 2000


class FeatureExtractor:
    """A classifier as a feature space.

    Args:
        source: weights of a classifier, a path or a shipped name.
    """

    def __init__(self, source: str):
        loaded: Loaded = load(source)
        if loaded.plan.preconditioner is not None:
            raise UserError(f"{source} is a denoiser, not a classifier")
        self.source = source
        self.num_classes = loaded.plan.num_classes

        @jax.jit
        def run(params, images):
            module = loaded.network.module(params)
            features = module.features(images)
            return features, jnp.argmax(module.head(features), axis=-1)

        self._run = lambda images: run(loaded.params, images)

    def __call__(
        self, images: UInt8[np.ndarray, "n h w c"]
    ) -> tuple[Float[np.ndarray, "n feature"], Int[np.ndarray, " n"]]:
        """Return features and predicted classes of uint8 images."""
        features, classes = [], []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            # The last batch is filled up, so that one shape is compiled.
            full = np.resize(part, (BATCH, *part.shape[1:])).astype(np.float32) / 127.5 - 1
            found, predicted = self._run(jnp.asarray(full))
            features.append(np.asarray(found)[: len(part)])
            classes.append(np.asarray(predicted)[: len(part)])
        return np.concatenate(features), np.concatenate(classes)


@dataclasses.dataclass(frozen=True)
class RealStatistics:
    """What is kept of a real set in a classifier's feature space.

    Attributes:
        moments: mean and covariance over the whole split.
        features: of the first ``MANIFOLD_IMAGES`` images of a shuffle, for precision and recall.
        description: data set, split, number of images, the classifier used, and the appearance of
            the images whose features are kept.
    """

    moments: Moments
    features: Float[np.ndarray, "n feature"]
    description: dict

    @classmethod
    def compute(cls, extractor: FeatureExtractor, data) -> "RealStatistics":
        """Read a config's ``data`` section and pass every image through the classifier."""
        source = input_pipeline.load_source(**data)
        images, _ = source.read(np.arange(source.num_examples))
        features, _ = extractor(images)
        chosen = np.random.default_rng(0).permutation(len(features))[:MANIFOLD_IMAGES]
        description = {
            "data": data.name,
            "split": data.split,
            "images": len(features),
            "classifier": extractor.source,
            "contrast": contrast(images[chosen]),
            "white": white(images[chosen]),
        }
        return cls(moments(features), features[chosen], description)

    def save(self, path: Path) -> None:
        """Write a safetensors file with a JSON sidecar."""
        arrays = {
            "count": np.array(self.moments.count, np.int64),
            "mean": np.asarray(self.moments.mean, np.float64),
            "scatter": np.asarray(self.moments.scatter, np.float64),
            "features": np.asarray(self.features, np.float16),
        }
        path.write_bytes(serialise(arrays))
        path.with_suffix(".json").write_text(json.dumps(self.description, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "RealStatistics":
        """Read what `save` wrote.

        Raises:
            UserError: no such file.
        """
        if not path.exists():
            raise UserError(
                f"{path} does not exist: python main.py --mode=statistics with the data set on "
                f"disk writes it"
            )
        arrays = load_file(path)
        kept = Moments(int(arrays["count"]), arrays["mean"], arrays["scatter"])
        description = json.loads(path.with_suffix(".json").read_text())
        return cls(kept, arrays["features"].astype(np.float32), description)


def compare(
    real: RealStatistics, features: Float[np.ndarray, "n feature"], neighbours: int = 5
) -> dict[str, float]:
    """Return Frechet distance, precision and recall of generated features."""
    scores = manifold_scores(real.features, features, neighbours=neighbours)
    return {
        "frechet_distance": frechet_distance(real.moments, moments(features)),
        "precision": scores.precision,
        "recall": scores.recall,
        "density": scores.density,
        "coverage": scores.coverage,
    }


def write_statistics(config, workdir: Path) -> None:
    """Compute the statistics of ``config.data`` and write them below ``workdir`` (a verb)."""
    extractor = FeatureExtractor(config.evaluation.classifier)
    statistics = RealStatistics.compute(extractor, config.data)
    path = workdir / f"{config.evaluation.statistics}.safetensors"
    statistics.save(path)
    print(f"wrote {path}: {statistics.description}")
