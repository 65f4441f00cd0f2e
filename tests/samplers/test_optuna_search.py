"""Searches that try whole samplers: never worse than where they start, repeatable, and cheap."""

import json
import logging

import jax
import numpy as np
import pytest
from oracles.search_runs import UNGUIDED, contract, denoise_golden, noise_of

from guidestar import samplers
from guidestar.samplers import tuning
from guidestar.samplers.solvers.per_step import MENU, per_step
from guidestar.samplers.tuning.study import ENGINES

STEPS, TRIALS = 6, 40
FINE = samplers.flow(40, sigma_max=80.0)
EVEN = FINE[np.round(np.linspace(0, 40, STEPS + 1)).astype(int)]
KARRAS = samplers.karras(STEPS)


class Counted:
    """An objective that remembers what it was asked."""

    def __init__(self, judge):
        self.judge, self.asked = judge, []

    def __call__(self, solver, sigmas):
        value = self.judge(solver, sigmas)
        self.asked.append((solver, sigmas, value))
        return value


def distance_to(target):
    """Return an objective without samples: how far log levels are from others."""
    return Counted(lambda solver, sigmas: float(np.abs(np.log1p(sigmas) - np.log1p(target)).sum()))


@pytest.fixture(scope="module")
def endpoint():
    noise, key = noise_of(32), jax.random.key(0)
    truth = samplers.sample(
        denoise_golden, UNGUIDED, samplers.heun(), samplers.karras(150), noise, None, key
    )
    return tuning.endpoint_error(denoise_golden, UNGUIDED, noise, None, key, truth)


def timesteps(objective, **options):
    options = {"candidates": FINE, "trials": TRIALS, **options}
    return tuning.timesteps(objective, STEPS, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_schedules_are_never_worse_than_the_first_nor_than_before(engine, endpoint):
    objective = Counted(endpoint)
    found = timesteps(objective, engine=engine, solver=samplers.ipndm(2))
    solver, first, value = objective.asked[0]
    assert solver == samplers.ipndm(2)
    np.testing.assert_array_equal(first, EVEN)
    assert found.history[0] == value and found.history.shape == (TRIALS,)
    assert (np.diff(found.history) <= 0).all()
    assert found.objective == found.history[-1] == min(value for *_, value in objective.asked)
    assert found.objective < value
    assert found.objective == endpoint(found.solver, found.sigmas)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_schedule_that_is_tried_is_a_part_of_the_fine_one(engine):
    objective = distance_to(EVEN)
    timesteps(objective, engine=engine, trials=80)
    for _, sigmas, _ in objective.asked:
        assert sigmas.shape == (STEPS + 1,) and (np.diff(sigmas) < 0).all()
        assert sigmas[0] == 80.0 and sigmas[-1] == 0.0 and np.isin(sigmas, FINE).all()
    # Nothing is judged twice.
    assert len({tuple(sigmas) for _, sigmas, _ in objective.asked}) == len(objective.asked)


def test_a_schedule_proposed_again_is_answered_from_memory():
    # Six places for two levels: fifteen schedules.
    objective = distance_to(samplers.karras(3, 0.1, 4.0))
    found = tuning.timesteps(
        objective, 3, candidates=samplers.linear(7, 0.1, 4.0), trials=100, engine="random"
    )
    assert found.evaluations == len(objective.asked) <= 15 < len(found.history) == 100


@pytest.mark.parametrize("engine", ENGINES)
def test_a_seed_gives_one_search(engine, endpoint):
    same = [timesteps(endpoint, engine=engine, seed=3, trials=25) for _ in range(2)]
    np.testing.assert_array_equal(same[0].sigmas, same[1].sigmas)
    np.testing.assert_array_equal(same[0].history, same[1].history)
    other = timesteps(endpoint, engine=engine, seed=4, trials=25)
    assert (same[0].history != other.history).any()


@pytest.mark.longer
def test_proposals_learn_from_what_was_tried():
    target = FINE[[0, 3, 11, 12, 25, 33, 40]]
    start = distance_to(target)(None, EVEN)
    ends = {
        engine: timesteps(distance_to(target), trials=300, engine=engine).objective
        for engine in ENGINES
    }
    assert ends["evolution"] < 0.15 * start and ends["tpe"] < 0.15 * start
    assert max(ends["evolution"], ends["tpe"]) < 0.5 * ends["random"]


def test_initial_schedules_are_tried_first_and_kept_when_best():
    objective = distance_to(KARRAS)
    candidates = np.append(FINE[:-1], 0.0)
    found = timesteps(objective, candidates=candidates, initial=[EVEN, KARRAS])
    np.testing.assert_array_equal(objective.asked[0][1], EVEN)
    np.testing.assert_array_equal(objective.asked[1][1], KARRAS)
    assert found.objective == 0 and found.history[1] == 0
    np.testing.assert_array_equal(found.sigmas, KARRAS)
    # One schedule may stand alone.
    np.testing.assert_array_equal(timesteps(objective, initial=KARRAS, trials=1).sigmas, KARRAS)


@pytest.mark.parametrize("steps", [1, 40])
def test_the_only_schedule_there_is_is_found(steps):
    found = tuning.timesteps(
        lambda solver, sigmas: float(len(sigmas)), steps, candidates=FINE, trials=5
    )
    np.testing.assert_array_equal(found.sigmas, FINE if steps == 40 else FINE[[0, -1]])
    assert found.evaluations == 1


def test_a_value_that_is_no_number_is_the_worst():
    def judge(solver, sigmas):
        return float("nan") if (sigmas == EVEN).all() else float(sigmas[1])

    found = timesteps(judge)
    assert found.history[0] == np.inf and np.isfinite(found.objective)


# Solvers.


def strategies(objective, **options):
    return tuning.strategies(objective, EVEN, **{"trials": TRIALS, **options})


def canonical(solver):
    """Return choices without those that make no difference on a schedule that ends in 0."""
    choices = []
    for i, choice in enumerate(solver.choices):
        order = min(choice.order, i + 1)
        corrector = choice.corrector and i < len(solver.choices) - 2
        choices.append((choice.prediction, order, corrector))
    return choices[:-1]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("candidates", [None, FINE])
def test_solvers_are_never_worse_than_those_that_take_every_step_alike(
    candidates, engine, endpoint
):
    objective = Counted(endpoint)
    found = strategies(objective, candidates=candidates, engine=engine)
    assert (np.diff(found.history) <= 0).all() and len(found.history) == TRIALS
    assert found.objective == endpoint(found.solver, found.sigmas)
    for choice in MENU:
        alike = per_step([choice] * STEPS)
        assert found.objective <= endpoint(alike, EVEN) * (1 + 1e-5)
    asked = [canonical(solver) for solver, *_ in objective.asked[:12]]
    assert asked[0] == canonical(per_step([("data", 2)] * STEPS))
    uniform = [canonical(per_step([choice] * STEPS)) for choice in MENU]
    assert all(choices in uniform for choices in asked)
    if candidates is None:
        assert all((sigmas == EVEN).all() for _, sigmas, _ in objective.asked)
    else:
        assert any((sigmas != EVEN).any() for _, sigmas, _ in objective.asked)


@pytest.mark.longer
def test_mixed_steps_beat_uniform_ones(endpoint):
    best = min(endpoint(per_step([choice] * STEPS), EVEN) for choice in MENU)
    assert strategies(endpoint, trials=120).objective < 0.9 * best


def test_an_initial_solver_is_tried_first(endpoint):
    mixed = per_step([("noise", 1, True), ("data", 2), ("noise", 3)] * 2)
    objective = Counted(endpoint)
    strategies(objective, initial=mixed, trials=3)
    assert canonical(objective.asked[0][0]) == canonical(mixed)
    np.testing.assert_allclose(objective.asked[0][2], endpoint(mixed, EVEN), rtol=1e-5)


def test_solvers_that_would_be_the_same_are_one():
    # Where a step cannot have more than one prediction, or what it starts from is forgotten.
    objective = Counted(lambda solver, sigmas: float(sum(solver.entries)))
    found = tuning.strategies(objective, np.array([9.0, 1.0, 0.0]), trials=50)
    assert found.evaluations == 2
    found = tuning.strategies(objective, np.array([9.0, 1.0]), trials=50)
    assert found.evaluations == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_seed_gives_one_search_of_solvers(engine, endpoint):
    same = [
        strategies(endpoint, candidates=FINE, engine=engine, seed=2, trials=30) for _ in range(2)
    ]
    assert same[0].solver == same[1].solver
    np.testing.assert_array_equal(same[0].sigmas, same[1].sigmas)
    np.testing.assert_array_equal(same[0].history, same[1].history)


def test_all_candidates_run_in_one_program(compilations):
    noise = noise_of(4)
    objective = tuning.endpoint_error(contract, UNGUIDED, noise, None, jax.random.key(0), 0 * noise)
    objective(samplers.euler(), EVEN), objective(per_step([("data", 2)] * STEPS), EVEN)
    with compilations() as compiled:
        strategies(objective, candidates=FINE, trials=25)
        timesteps(objective, trials=25)
    assert not compiled


# Results.


def test_results_come_back_as_configs():
    found = strategies(lambda solver, sigmas: float(sigmas[1]), candidates=FINE)
    built = samplers.from_config(found.config())
    assert built.solver == found.solver
    np.testing.assert_array_equal(built.sigmas, found.sigmas)
    # Nothing but what a file can hold.
    assert json.loads(json.dumps(found.config())) == found.config()
    for final_zero in (False, True):
        candidates = samplers.karras(20, final_zero=final_zero)
        found = timesteps(
            distance_to(EVEN), candidates=candidates, solver=samplers.dpmpp(), trials=3
        )
        built = samplers.from_config(found.config({"name": "dpmpp"}))
        assert built.solver == found.solver
        np.testing.assert_array_equal(built.sigmas, found.sigmas)
    with pytest.raises(ValueError, match="pass its section, config"):
        found.config()


def test_optuna_says_nothing_and_speaks_as_before():
    import optuna

    class Kept(logging.Handler):
        def __init__(self):
            super().__init__()
            self.records = []

        def emit(self, record):
            self.records.append(record)

    handler, logger = Kept(), logging.getLogger("optuna.storages._in_memory")
    verbosity, filters = optuna.logging.get_verbosity(), list(logger.filters)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    logging.getLogger("optuna").addHandler(handler)
    try:
        timesteps(distance_to(EVEN), trials=3)
        assert not handler.records
        assert logger.filters == filters and optuna.logging.get_verbosity() == logging.INFO
        optuna.create_study()
        assert len(handler.records) == 1
    finally:
        logging.getLogger("optuna").removeHandler(handler)
        optuna.logging.set_verbosity(verbosity)


def judge_length(solver, sigmas):
    return float(len(sigmas))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tuning.timesteps(judge_length, 41, candidates=FINE),
            "tuning.timesteps: 41 steps, but the fine schedule has only 40",
        ),
        (lambda: tuning.timesteps(judge_length, 0, candidates=FINE), "steps must be a positive"),
        (lambda: timesteps(judge_length, engine="luck"), "evolution, tpe, random, got 'luck'"),
        (lambda: timesteps(judge_length, trials=0), "trials must be a positive integer"),
        (lambda: timesteps(judge_length, candidates=FINE[::-1]), "sigmas must decrease"),
        (lambda: timesteps(judge_length, initial=EVEN[:-1]), "must have 6 steps between the ends"),
        (
            lambda: timesteps(judge_length, initial=samplers.karras(6, sigma_max=70.0)),
            "ends of the candidates, 80 and 0",
        ),
        (lambda: strategies(judge_length, engine="luck"), "tuning.strategies: engine is one of"),
        (lambda: strategies(judge_length, initial=[samplers.euler()]), "solvers of samplers.per"),
        (
            lambda: strategies(judge_length, initial=per_step([("data", 2)])),
            "with 6 choices, one a step",
        ),
        (
            lambda: strategies(judge_length, candidates=samplers.karras(20, sigma_max=50.0)),
            "ends of the candidates, 50 and 0",
        ),
    ],
)
def test_searches_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
