"""A sweep for the command line: ten scales on the shipped digits, a few images and steps each."""

from guidestar.configs.sweeps import digits


def get_config():
    """Return the config."""
    config = digits.get_config()
    config.name = "tiny_sweep"
    config.sampler.schedule.steps = 4
    config.sampling.batch_size = 2
    config.evaluation.count = 12
    config.evaluation.metrics = ("frechet_distance", "contrast")
    config.sweep.lease = 5.0
    return config


def get_hyper(hyper):
    """Return the trials."""
    return hyper.sweep("guidance.rule.scale", [1.0 + n / 2 for n in range(10)])
