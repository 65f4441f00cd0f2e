"""Trials that workers share: each is done once, whoever dies, on every kind of storage."""

import threading
import time

import pytest

from guidestar.core.errors import UserError
from guidestar.runtime.study import (
    COMPLETE,
    FAILED,
    PRUNED,
    Lost,
    Pruning,
    Storage,
    Study,
    require_space,
)

MADE_OF = {"trials": "of this", "images": 4}
SPACE = {
    "scale": {"low": 1.0, "high": 9.0, "log": True},
    "steps": {"low": 2, "high": 8, "int": True},
    "rule": {"choices": ("cfg", "apg")},
}


@pytest.fixture(params=["sqlite", "journal"])
def url(request, tmp_path):
    """Return a storage's URL."""
    if request.param == "journal":
        return f"journal:{tmp_path / 'shared' / 'sweep.journal'}"
    return f"sqlite:///{tmp_path / 'sweep.db'}"


@pytest.fixture
def worker(url, tmp_path):
    """Return a function that makes a worker's study; by default all share one folder."""

    def study(folder="work", places=3, made_of=MADE_OF, **options):
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        return Study(Storage(url, path), "sweep", path, places, made_of, **options)

    return study


def die(claim):
    """Leave a claim as a process does that is killed: no sign any more, and its lock is gone."""
    claim._let_go()


def test_places_are_claimed_in_turn_and_finished_once(worker):
    study = worker()
    for place in range(3):
        claim = study.claim()
        assert claim.place == place and claim.folder.name == str(place)
        claim.finish(COMPLETE, {"number": place}, float(place))
    assert study.claim() is None
    found = worker().finished()
    assert [one.value for one in found.values()] == [0.0, 1.0, 2.0]
    assert [one.row for one in found.values()] == [{"number": place} for place in range(3)]


@pytest.mark.longer
def test_workers_at_once_do_each_place_once(worker):
    """In folders of their own, so that no lock of theirs helps."""
    places, done, failed = 8, [], []
    studies = [worker(f"work{n}", places) for n in range(4)]
    start = threading.Barrier(len(studies))

    def work(study):
        try:
            start.wait()
            while len(study.finished()) < places:
                if (claim := study.claim()) is not None:
                    done.append(claim.place)
                    claim.finish(COMPLETE, {}, 0.0)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(study,)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and sorted(done) == list(range(places))


def test_what_a_dead_worker_had_is_taken_over_at_once_on_its_machine(worker):
    first, second = worker(lease=1000.0), worker(lease=1000.0)
    claim = first.claim()
    assert second.claim().place == 1  # it lives
    die(claim)
    again = second.claim()
    assert again.place == claim.place == 0
    again.finish(COMPLETE, {"of": "the second"}, 1.0)
    with pytest.raises(Lost):
        claim.finish(COMPLETE, {"of": "the first"}, 2.0)
    assert second.finished()[0].row == {"of": "the second"}


@pytest.mark.longer
def test_elsewhere_a_worker_is_dead_after_its_lease(worker):
    first, second = worker("here", 1, lease=0.6), worker("there", 1, lease=0.6)
    claim = first.claim()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:  # it gives signs
        assert second.claim() is None
        time.sleep(0.1)
    die(claim)
    assert second.claim() is None
    time.sleep(0.8)
    assert second.claim().place == 0


def test_a_worker_that_was_taken_for_dead_is_told(worker):
    study = worker(places=1, lease=0.3)
    claim = study.claim()
    claim.require()
    study._fail(claim._number)
    time.sleep(0.3)
    with pytest.raises(Lost):
        claim.require()
    claim.release()


def test_what_fails_by_itself_is_not_tried_again_and_what_is_released_is(worker):
    study = worker(places=2)
    study.claim().finish(FAILED, {"error": "images are not finite"})
    claim = study.claim()
    claim.release()
    assert claim.place == 1 and study.claim().place == 1
    assert {place: one.state for place, one in study.finished().items()} == {0: FAILED}


def test_proposals_are_by_place_and_outlive_their_worker(worker):
    study = worker(sampler="tpe", seed=3)
    claims = [study.claim(), study.claim()]
    found = [claim.proposed(SPACE) for claim in claims]
    assert found[0] != found[1]
    for one in found:
        assert (
            1 <= one["scale"] <= 9
            and one["steps"] in range(2, 9)
            and one["rule"] in SPACE["rule"]["choices"]
        )
    die(claims[0])
    again = study.claim()
    assert again.place == 0 and again.proposed(SPACE) == found[0]


def test_another_seed_proposes_something_else(tmp_path):
    found = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"seed{len(found)}"
        folder.mkdir()
        study = Study(Storage("", folder), "a", folder, 1, MADE_OF, sampler="random", seed=seed)
        found.append(study.claim().proposed(SPACE))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("maximise", [False, True])
def test_trials_worse_than_the_median_are_given_up(worker, maximise):
    study = worker(places=5, sampler="random", pruning=Pruning(2), maximise=maximise)
    sign = -1 if maximise else 1
    for value in (1.0, 3.0):
        claim = study.claim()
        assert not claim.hopeless(sign * value, 10)
        claim.finish(COMPLETE, {}, sign * value)
    claim = study.claim()
    assert not claim.hopeless(sign * 1.5, 10)  # the median is 2
    claim.release()
    claim = study.claim()
    assert claim.hopeless(sign * 2.5, 10)
    claim.finish(PRUNED, {})
    assert study.finished()[2].state == PRUNED


def test_a_storage_of_another_sweep_is_refused(worker):
    worker()
    with pytest.raises(UserError, match="holds another sweep.*differs in images: .*--workdir"):
        worker(made_of=MADE_OF | {"images": 5})


def test_a_study_that_no_sweep_made_is_refused(worker, url, tmp_path):
    import optuna

    storage = Storage(url, tmp_path)
    optuna.create_study(study_name="sweep", storage=storage.optuna).ask()
    with pytest.raises(UserError, match="no sweep has made"):
        worker()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:9/sweep", "me:\\*\\*\\*@127.0.0.1:9/sweep cannot be"),
        ("$SWEEP_STORAGE", "cannot be reached"),
        ("nonsense", "is no URL: give postgresql"),
        ("oracle9://me:secret@host/a", "driver that is not installed"),
        ("sqlite:////nowhere/at/all.db", "/nowhere/at/all.db cannot be reached"),
        ("journal:/proc/nowhere/sweep.journal", "cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line_without_a_password(
    tmp_path, monkeypatch, url, message
):
    if url.startswith(("postgresql", "$")):
        pytest.importorskip("psycopg")
    monkeypatch.setenv("SWEEP_STORAGE", "postgresql://me:secret@127.0.0.1:9/a?password=secret")
    with pytest.raises(UserError, match=message) as refused:
        Storage(url, tmp_path)
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "sweep.db").write_text("a note, and no database " * 40)
    with pytest.raises(UserError, match="sweep.db cannot be reached .*not a database"):
        Storage("", tmp_path)


def test_sqlite_takes_its_lock_before_it_reads(tmp_path):
    """Otherwise two processes that read the same trial would both change it."""
    import sqlalchemy

    one, other = Storage("", tmp_path).optuna.engine, Storage("", tmp_path).optuna.engine
    with one.begin(), other.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA busy_timeout = 50")
        with pytest.raises(sqlalchemy.exc.OperationalError, match="locked"):
            connection.execute(sqlalchemy.text("SELECT 1"))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "lacks low"),
        ({"low": 1.0}, "lacks high"),
        ({"low": 2.0, "high": 1.0}, "high is 1.0"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above 0"),
        ({"low": 0.5, "high": 4, "int": True}, "whole numbers"),
        ({"low": 0.0, "high": 1.0, "step": 2}, "'step' is none of"),
        ({"choices": ()}, "choices is a list"),
        ({"choices": ({"name": "cfg"},)}, "choices is a list"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(section, message):
    with pytest.raises(UserError, match=f"sweep.space, scale.*{message}"):
        require_space({"scale": section}, "sweep.space")
