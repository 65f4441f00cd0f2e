"""A shortened set of the disturbances of `faults`; ``make faults`` does all of them."""

import pytest
from processes.faults import FAULTS, disturb

FEW = {"kill": 4, "terminate": 2, "unreadable": 2}


@pytest.mark.longer
def test_a_disturbed_run_ends_like_an_undisturbed_one_or_says_what_is_lost(tmp_path):
    counts = {name: FEW.get(name, 1) for name in FAULTS}
    survived, wrong = disturb(tmp_path, counts, seed=0)
    assert not wrong
    assert {name for name in counts if survived[name] != counts[name]} <= {"full-tmpfs"}
