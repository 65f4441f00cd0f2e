"""Images of Fashion-MNIST that are searched for: the best of 16 by the shipped classifier.

    python main.py --config=configs/search_fashion_mnist.py --workdir=out/search --mode=search

The verifier is the classifier that measures the demo. No second classifier is shipped, so that the
judge is another denoiser, as a classifier: that of the atlas, of another seed and other pictures
(mirrored ones). It shows where the verifier is pleased and nobody else is. The weights of
`configs/fashion_mnist_judge.py`, once trained, judge better: docs/howto/search.md.
"""

from ml_collections import ConfigDict

from guidestar.configs import demo


def get_config():
    """Return the config."""
    config = demo.get_config()
    config.name = "search_fashion_mnist"
    for unread in ("demo", "fractal", "rows", "claims", "evaluation", "evidence"):
        del config[unread]
    config.guidance = ConfigDict(dict(name="unguided"))
    config.sampler.solver = ConfigDict(dict(name="euler"))
    config.sampling.weights.guide = ""
    config.sampling.update(count=100, batch_size=100)
    config.search.update(
        method=ConfigDict(dict(name="best_of_n")),
        budget=16 * 12,
        verifier="fashion_mnist_classifier",
        judge="fashion_mnist_dit",
    )
    config.classification.schedule.update(steps=8, sigma_min=0.3, sigma_max=5.0)
    return config
