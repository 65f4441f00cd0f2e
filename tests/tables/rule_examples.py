"""One config for every constructor of the library, as examples to test with."""

import importlib
import pkgutil

from guidestar import guidance

# Constructors register themselves when their module is imported.
for folder in ("references", "transforms", "wrappers", "operators"):
    package = importlib.import_module(f"guidestar.guidance.{folder}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")

CFG = {"name": "cfg", "scale": 2.0}
# A measurement of samples of `guidance.evaluations.SHAPE`, the same in every place.
MEASURED = {"operator": {"name": "average_pool", "size": 2}, "measurement": (((0.5,),),)}
REWARDED = {"reward": MEASURED["operator"], "measurement": MEASURED["measurement"]}
ROWS = ((1.0,), (0.0,)) * 32
# Arguments by constructor; transforms and references are put into a push by `rule`.
EXAMPLES = {
    "apg": {"scale": 4.0, "eta": 0.2, "norm": 2.5, "momentum": -0.5},
    "average_pool": {"size": 4},
    "blur": {"kernel": ((0.25, 0.5, 0.25),), "cutoff": 0.01},
    "compose": {
        "operators": ({"name": "gray", "weights": (0.25,) * 4}, MEASURED["operator"]),
        "shape": (64, 64, 4),
    },
    "ddnm": {**MEASURED, "eta": 0.5},
    "ddrm": {**MEASURED, "noise": 0.1},
    "dps": {**MEASURED, "scale": 0.5, "rule": CFG},
    "feature": {"target": ((1.0, 0.5),), "layer": 2, "scale": 3.0},
    "fourier_mask": {"mask": ROWS},
    "freedom": {**REWARDED, "scale": 0.05},
    "gray": {"weights": (0.25,) * 4},
    "lgd": {**REWARDED, "draws": 2},
    "mask": {"mask": ROWS},
    "matrix": {"matrix": ((1.0, 0.0, 0.0, 1.0), (0.0, 2.0, 0.0, 0.0)), "axis": -1},
    "mpgd": {**REWARDED, "scale": 2.0, "steps": 2},
    "observe": {"steps": (0, 2, 3), "length": 64},
    "pigdm": {**MEASURED, "noise": 0.1, "variance": 0.25},
    "steered": REWARDED,
    "tfg": {**REWARDED, "rho": 0.5, "mu": 0.5, "spread": 0.1},
    "universal": {**REWARDED, "steps": 2},
    "attention_temperature": {"layers": (1,), "temperature": 0.5},
    "autoguidance": {"scale": 2},
    "between": {"rule": CFG, "low": 0.3, "high": 3.0},
    "blurred_queries": {"layers": (1, 2), "sigma": 10.0},
    "cads": {"rule": CFG, "tau1": 0.5, "null_noised": True},
    "calibrated_classifier": {"tau1": 1.0},
    "cfg": {"scale": 2.0, "network": "guide"},
    "cfg_and_autoguidance": {"scale": 2.0, "mix": 0.25},
    "cfg_rescale": {"scale": 7.5, "phi": 0.7},
    "cfg_zero_star": {"scale": 3.0, "zero_init_steps": 2},
    "cfgpp": {"scale": 0.6},
    "chain": {"transforms": ({"name": "scale", "scale": 2.0}, {"name": "project", "eta": 0.0})},
    "channels": {"count": 3},
    "classifier": {"scale": 1.0},
    "classifier_gradient": {},
    "clip_norm": {"norm": 5},
    "compose_and": {"conditions": ("given", 1), "scales": (1.5, 2.0)},
    "compose_not": {"scale": 2.0, "condition": 1},
    "confused_class": {},
    "damp_magnitude": {"alpha": 8.0},
    "domain": {"scale": 1.5},
    "dynamic_threshold": {"rule": CFG, "percentile": 0.99},
    "elucd": {"scale": 1.0, "tau2": 0.5},
    "energy_preserving": {},
    "ep_cfg": {"scale": 3.0},
    "erg": {"scale": 2.0, "layers": (0,), "temperature": 0.5},
    "fkc": {"scale": 1.5},
    "frequency_decoupled": {"scales": (10.0, 5.0), "parallel_weights": (1.0, 0.5)},
    "frequency_scales": {"scales": (10.0, 5.0), "parallel_weights": (1.0, 0.5)},
    "gfcg": {"scale": 2.0},
    "higs": {"rule": CFG, "weight": 2.0, "window": (0.4, 0.95)},
    "icg": {"scale": 2.0, "classes": 10},
    "identity_attention": {"layers": (1, 3)},
    "independent": {"classes": 10},
    "instruct": {"scale": 7.5, "image_scale": 1.5},
    "magnitude_aware": {"scale": 10.0, "alpha": 8.0},
    "momentum": {"momentum": -0.75},
    "negative": {"scale": 2.0, "condition": 1},
    "negative_condition": {"condition": 1},
    "null": {"network": "guide"},
    "optimal_scale": {},
    "pag": {"scale": 3.0, "layers": (1,)},
    "permuted_tokens": {"layers": (0,)},
    "perp_neg": {"scale": 2.0, "negatives": (1,), "weights": (1.0,)},
    "perturbed_time": {"s": 2.0},
    "project": {"eta": 0.3},
    "push": {
        "reference": {"name": "weak"},
        "push": ({"name": "momentum", "momentum": -0.5}, {"name": "scale", "scale": 3.0}),
    },
    "reg": {"rule": CFG},
    "renoised": {"push": CFG},
    "reuse": {"rule": CFG, "every": 3, "low": 0.1, "high": 5.0, "of": "difference"},
    "scale": {"scale": 4},
    "scheduled": {"scale": 3.0, "shape": "cosine"},
    "scheduled_cfg": {"scale": 3.0, "shape": "linear"},
    "seg": {"scale": 3.0, "layers": (1,), "sigma": 10.0},
    "skip_aligned": {"rule": CFG, "threshold": 0.99},
    "skipped_blocks": {"layers": (2,)},
    "sliding_windows": {"size": 40, "count": 2},
    "slg": {"scale": 2.8, "layers": (2,)},
    "stitched": {"rule": CFG, "network": "small", "low": 2.0},
    "static_threshold": {"rule": CFG, "bound": 1.0},
    "std_rescale": {"phi": 0.5},
    "swg": {"scale": 1.2, "size": 40},
    "tangential": {},
    "tcfg": {"scale": 7.5},
    "together": {"rules": (CFG, {"name": "autoguidance", "scale": 1.5})},
    "tpg": {"scale": 3.0, "layers": (0,)},
    "tsg": {"scale": 2.0, "s": 2.0},
    "unguided": {},
    "weak": {"network": "other"},
    "zero_init": {"evaluations": 2},
}


def example(name: str) -> dict:
    """Return the config of a constructor's example."""
    return {"name": name, **EXAMPLES[name]}


def rule(name: str) -> dict:
    """Return a config of a rule in which the constructor takes part."""
    one = example(name)
    for whole in (
        one,
        {"name": "push", "reference": {"name": "null"}, "push": (one,)},
        {"name": "push", "reference": one, "push": ()},
        {"name": "ddnm", "operator": one, "measurement": MEASURED["measurement"]},
    ):
        try:
            guidance.from_config(whole)
        except ValueError:
            continue
        return whole
    raise AssertionError(f"the example of {name} is refused everywhere")
