"""Scale and interval of CFG on the digits by Optuna, bad trials given up after 40 images.

    python main.py --config=configs/sweeps/search_digits.py --workdir=out/search --mode=sweep

The images are those of `configs/sweeps/digits.py`, so that the two can be compared: the best of its
60 trials is at 0.3005 (TCFG 2 in (0.3, 5]), for 12 000 images; this search, on two workers, found
0.2919 (CFG 1.77 in (0.15, 2.41]) for 3 840, half of its 32 trials being given up. What several
workers propose depends on who is first; one worker repeats itself.
"""

from guidestar.configs.sweeps import digits


def get_config():
    """Return the config."""
    config = digits.get_config()
    config.name = "search_digits"
    config.sweep.update(
        sampler="tpe",
        trials=32,
        space=(
            dict(field="guidance.rule.scale", low=1.0, high=7.0, log=True),
            dict(field="guidance.low", low=0.0, high=1.0),
            dict(field="guidance.high", low=1.5, high=80.0, log=True),
        ),
    )
    config.sweep.pruning.update(images=40, startup=5)
    return config
