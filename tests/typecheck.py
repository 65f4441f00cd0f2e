"""What checks annotations at every call: beartype, for which numpy's numbers and arrays count."""

import jax
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

OVERRIDES = {
    float: float | int | np.floating | np.integer,
    int: int | np.integer,
    jax.Array: jax.Array | np.ndarray,
}
checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(OVERRIDES)))
