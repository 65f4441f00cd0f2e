"""A run's record: what a line has, what is left of a killed run, what the last line says."""

import json
import struct
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tiny_configs.configs import setup, tiny

from guidestar.core.errors import UserError
from guidestar.runtime import speed
from guidestar.runtime.metric_writer import Journal


def journal(folder, **fields):
    defaults = dict(start=0, total=10, batch_size=4, tensorboard=False)
    return Journal(folder, **defaults | fields)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr("guidestar.runtime.metric_writer.time.monotonic", lambda: now[0])
    return now


def test_a_line_has_speed_share_of_the_peak_memory_and_time_left(tmp_path, clock):
    made = journal(tmp_path, macs=30, peak=100.0)
    clock[0] += 2.0
    made.log(4, {"loss": 0.5})
    (line,) = lines(tmp_path)
    made.close()
    assert line["images"] == 16 and line["images_per_second"] == 8.0
    assert line["macs_per_second"] == 60.0 and line["share_of_peak"] == 0.6
    assert line["seconds_left"] == 3.0 and line["memory_bytes"] > 2**20 and line["loss"] == 0.5


def test_an_unknown_peak_is_not_made_up(tmp_path, clock):
    made = journal(tmp_path, macs=30)
    clock[0] += 2.0
    made.log(4, {"loss": 0.5})
    made.close()
    assert "share_of_peak" not in lines(tmp_path)[0] and "peak" not in made.summary()


def test_the_last_line_sums_the_run_up(tmp_path, clock):
    made = journal(tmp_path, start=2, macs=30, peak=100.0, name="digits")
    for step in (6, 10):
        clock[0] += 60.0
        made.log(step, {"loss": 1 / step, "input_wait_share": 0.01})
    made.close()
    said = made.summary()
    assert said.startswith("digits: steps 2 to 10 of 10 in 2.0 min, 0 images/s, 2e-09 G")
    assert "(2.0% of the peak)" in said and "waiting for input 1.0%" in said
    assert said.endswith("loss 0.1")


def test_lines_after_the_checkpoint_go_on_continuing(tmp_path):
    made = journal(tmp_path)
    for step in (2, 4, 6):
        made.log(step, {"loss": 1.0})
    made.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    journal(tmp_path, start=4).close()
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]


def test_a_host_that_does_not_write_leaves_no_file(tmp_path):
    made = journal(tmp_path, writes=False, tensorboard=True)
    made.advance()
    made.log(2, {"loss": 1.0})
    made.close()
    assert not list(tmp_path.iterdir()) and "loss 1" in made.summary()


def test_weights_and_biases_gets_the_same_lines_and_goes_on_with_a_run(tmp_path, monkeypatch):
    started, logged = [], []

    def init(**given):
        started.append(given)
        return types.SimpleNamespace(
            id="abc", log=lambda line, step: logged.append((step, line)), finish=lambda: None
        )

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for start in (0, 2):
        made = journal(tmp_path, start=start, wandb="sweeps", name="run", facts={"seed": 1})
        made.log(start + 2, {"loss": 0.5})
        made.close()
    assert [one["id"] for one in started] == [None, "abc"] and started[0]["project"] == "sweeps"
    assert [step for step, _ in logged] == [2, 4] and logged[0][1] == lines(tmp_path)[0]


def test_weights_and_biases_that_is_not_there_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        journal(tmp_path, wandb="sweeps")


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12 / 2),
        ("NVIDIA H100 PCIe", 756e12 / 2),
        ("TPU v5 lite", 197e12 / 2),
        ("TPU v5", 459e12 / 2),
        ("cpu", None),
    ],
)
def test_the_peak_of_known_chips_is_over_all_of_them(kind, peak, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind=kind)] * 3)
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    assert speed.peak_macs() == (peak and 3 * peak)


def test_a_steps_multiply_adds_are_three_forward_passes():
    # Of products alone, gradients in the inputs and in the weights each cost one more; the first
    # layer's inputs need none.
    weight = jnp.ones((2, 8, 8))

    def loss(weight, x):
        return jnp.sum(jnp.tanh(x @ weight[0]) @ weight[1])

    forward = speed.step_macs(loss, weight, jnp.ones((4, 8)))
    assert forward == 2 * 4 * 8 * 8
    assert speed.step_macs(jax.grad(loss), weight, jnp.ones((4, 8))) == 5 * 4 * 8 * 8


def test_a_run_counts_its_own_step():
    config = tiny()
    assert setup(config).macs(16) == 2 * setup(config).macs(8) > 0


def test_tensorboard_hides_what_an_earlier_start_wrote_of_later_steps(tmp_path):
    """As metrics.jsonl forgets it: the record begins again after the checkpoint's step."""
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        made = journal(tmp_path, start=start, tensorboard=True)
        for step in steps:
            made.log(step, {"loss": 1.0})
        made.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    begun = []
    for file in sorted((tmp_path / "tensorboard").glob("events*")):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.session_log.status == SessionLog.START:
                begun.append(event.step)
    assert begun == [3]


def test_what_is_measured_beside_training_has_lines_of_its_own(tmp_path):
    made = journal(tmp_path)
    made.note(4, {"held_out_loss": 0.25})
    made.note(4, {})
    made.close()
    assert lines(tmp_path) == [{"step": 4, "images": 16, "held_out_loss": 0.25}]
