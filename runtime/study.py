"""Trials that any number of workers share: Optuna keeps them, each is claimed by one at a time.

A trial has a place, 0 to N - 1, and a place may have several of Optuna's trials, of which one has
the lowest number among those that are neither failed nor given up: that one holds the place. A
worker that wants a place puts a running trial there and looks: where another has a lower number
its own is given up. All that this asks of a storage is that numbers are given one after another.

Who holds a place holds the lock of its folder, too, and counts up an attribute of its trial. A
worker that dies leaves both. On its own machine the lock tells so at once; elsewhere the count,
which has stood still for the length of a lease by the clock of whoever looks.
"""

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.checks import Range, require_ranges
from ..core.errors import UserError
from . import run_folder
from .identity import differences, plain

DATABASE = "sweep.db"
JOURNAL = "journal:"
SAMPLERS = ("tpe", "random")
# Attributes of Optuna's trials and studies.
PLACE, WORKER, BEAT, ROW, ERROR, MADE_OF = "place", "worker", "beat", "row", "error", "made_of"
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
# Renewals within a lease; seconds that a storage gets to answer, and SQLite until its turn comes.
BEATS, PATIENCE, LOCKED = 6, 15, 60
ATTEMPTS = 5
RETRY = "start the same command again once it can be: finished trials are kept"


class Finished(NamedTuple):
    """What became of a trial.

    Attributes:
        state: "complete", "pruned" or "failed".
        row: JSON data that its worker left.
        params: what was proposed, by parameter; empty where nothing was.
        value: what it was judged at; None of one that was not.
    """

    state: str
    row: dict[str, Any]
    params: dict[str, Any]
    value: float | None


class Lost(Exception):
    """Another worker has taken the trial over."""


class Pruning(NamedTuple):
    """When trials are given up early: see `optuna.pruners.MedianPruner`.

    Attributes:
        startup: trials that are completed before any is given up.
    """

    startup: int


def _unreachable(place: str, error: BaseException, secret: str = "") -> UserError:
    why = " ".join(str(getattr(error, "orig", None) or error.__cause__ or error).split())
    if secret:
        why = why.replace(secret, "***")
    return UserError(f"sweep.storage {place} cannot be reached ({why}): {RETRY}")


class Storage:
    """A storage of Optuna's, by URL.

    Args:
        url: of a database, ``postgresql://user@host/name``; ``journal:PATH``, a file on storage
            that all workers share; or empty, SQLite in ``folder``. Variables of the environment
            (``$NAME``) are put in, so that a command need not hold a password.
        folder: of the sweep.

    Attributes:
        shown: what messages call it, without a password.
        optuna: Optuna's object.

    Raises:
        UserError: no such kind of storage, its driver is missing, or it cannot be reached.
    """

    def __init__(self, url: str, folder: Path):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        given = os.path.expandvars(url.strip())
        self._secret = ""
        if given.startswith(JOURNAL):
            self._open_journal(Path(given.removeprefix(JOURNAL)).expanduser().absolute())
            return
        import sqlalchemy

        try:
            parsed = sqlalchemy.engine.make_url(given or f"sqlite:///{folder / DATABASE}")
            dialect = parsed.get_backend_name()
        except sqlalchemy.exc.ArgumentError as error:
            raise UserError(
                "sweep.storage is no URL: give postgresql://user@host/name, sqlite:////a/file.db, "
                "journal:/a/shared/file, or nothing for SQLite in the workdir"
            ) from error
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._secret = str(parsed.password or "")
        # Options behind the question mark may hold a password, too.
        self.shown = parsed.set(query={}).render_as_string(hide_password=True)
        self._open_database(parsed, dialect)

    def _open_journal(self, path: Path) -> None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.shown = f"{JOURNAL}{path}"
        with self.asked():
            path.parent.mkdir(parents=True, exist_ok=True)
            # An absolute path: the lock of a relative one is not seen to have been left behind.
            self.optuna: Any = JournalStorage(JournalFileBackend(str(path)))

    def _open_database(self, url: Any, dialect: str) -> None:
        import sqlalchemy
        from optuna.storages import RDBStorage

        limits = {"sqlite": "timeout", "postgresql": "connect_timeout", "mysql": "connect_timeout"}
        # SQLite's is how long others may hold its lock.
        seconds = LOCKED if dialect == "sqlite" else PATIENCE
        options = {limits[dialect]: seconds} if dialect in limits else {}
        text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        for attempt in range(ATTEMPTS):
            try:
                self.optuna = RDBStorage(
                    text, engine_kwargs={"connect_args": options, "pool_pre_ping": True}
                )
                break
            except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
                raise UserError(
                    f"sweep.storage {self.shown} needs a driver that is not installed ({error}): "
                    f"pip install 'guidestar[sweeps]' brings PostgreSQL's"
                ) from error
            except Exception as error:
                # Several workers that make the tables at once: all but one are refused.
                if attempt + 1 == ATTEMPTS or not _is_race(error):
                    raise _unreachable(self.shown, error, self._secret) from None
                time.sleep(0.2 * (attempt + 1))
        if dialect == "sqlite":
            _in_turn(self.optuna.engine)

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Turn what a storage that cannot be reached raises into one line.

        Raises:
            UserError: it cannot be reached.
        """
        import optuna
        import sqlalchemy

        try:
            yield
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            cause = error.__cause__ if error.__cause__ is not None else error
            raise _unreachable(self.shown, cause, self._secret) from None
        except OSError as error:
            raise _unreachable(self.shown, error, self._secret) from error


def _is_race(error: Exception) -> bool:
    text = str(error).lower()
    return any(one in text for one in ("already exists", "unique", "duplicate", "locked"))


def _in_turn(engine: Any) -> None:
    """Let what SQLite does in one go begin with its lock.

    By itself its driver reads first and takes the lock at the first change: two processes that
    have read the same both change it.
    """
    import sqlalchemy

    engine.dispose()

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_to_us(connection, _):
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def trial_folder(folder: Path, place: int) -> Path:
    """Return where the trial of a place is worked on, below the folder of its sweep."""
    return folder / "trials" / str(place)


class Study:
    """The places of a sweep, shared by its workers.

    Args:
        storage: that keeps them.
        name: of the study there.
        folder: of the sweep; place 7 is worked on in ``trials/7`` of it.
        places: how many there are.
        made_of: JSON data; a study that was made of something else is refused.
        maximise: whether more is better.
        sampler: "tpe" or "random"; empty where nothing is proposed.
        seed: of the proposals.
        pruning: when to give trials up; None for never.
        lease: seconds after which a worker elsewhere that gives no sign is taken to be dead.

    Raises:
        UserError: the storage holds another study of this name, or cannot be reached.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        folder: Path,
        places: int,
        made_of: Mapping[str, Any],
        *,
        maximise: bool = False,
        sampler: str = "",
        seed: int = 0,
        pruning: Pruning | None = None,
        lease: float = 60.0,
    ):
        self.storage, self.name, self.folder, self.places = storage, name, Path(folder), places
        self.lease = lease
        self._sampler, self._seed, self._pruning = sampler, seed, pruning
        # The count of each running trial, and when it was seen first.
        self._counts: dict[int, tuple[Any, float]] = {}
        direction = "maximize" if maximise else "minimize"
        import optuna

        with storage.asked():
            found = optuna.create_study(
                study_name=name, storage=storage.optuna, direction=direction, load_if_exists=True
            )
            self._study = storage.optuna.get_study_id_from_name(name)
            self._require_same(found, plain(made_of))

    def _require_same(self, found: Any, made_of: dict[str, Any]) -> None:
        elsewhere = "choose another --workdir, or another sweep.study"
        there = found.user_attrs.get(MADE_OF)
        if there is None:
            if found.get_trials(deepcopy=False):
                raise UserError(
                    f"sweep.storage {self.storage.shown} holds a study {self.name!r} that no sweep "
                    f"has made: {elsewhere}"
                )
            found.set_user_attr(MADE_OF, made_of)
            # Of two that begin at once the later one has its way.
            there = self.storage.optuna.get_study_user_attrs(self._study)[MADE_OF]
        if different := [one[0] for one in differences(there, made_of)]:
            raise UserError(
                f"sweep.storage {self.storage.shown} holds another sweep by the name of "
                f"{self.name!r}, which differs in {', '.join(different[:3])}: give again what it "
                f"was made of, or {elsewhere}"
            )

    def _trials(self) -> dict[int, list[Any]]:
        """Return Optuna's trials by place, in the order of their numbers."""
        with self.storage.asked():
            found = self.storage.optuna.get_all_trials(self._study, deepcopy=False)
        places: dict[int, list[Any]] = {}
        for trial in sorted(found, key=lambda one: one.number):
            places.setdefault(trial.user_attrs.get(PLACE, -1), []).append(trial)
        return {place: places[place] for place in sorted(places) if 0 <= place < self.places}

    def finished(self) -> dict[int, Finished]:
        """Return what became of the places that are done with, in their order."""
        found = {}
        for place, trials in self._trials().items():
            done = next((one for one in trials if _state(one) is not None), None)
            if done is not None:
                row = done.user_attrs.get(ROW) or {}
                value = done.value if _state(done) == COMPLETE else None
                found[place] = Finished(str(_state(done)), row, dict(done.params), value)
        return found

    def claim(self) -> "Claim | None":
        """Return the first place that nobody holds; None where there is none at present.

        Raises:
            UserError: the storage cannot be reached.
        """
        known = self._trials()
        for place in range(self.places):
            there = known.get(place, [])
            if any(_state(one) is not None for one in there):
                continue
            holder = next((one for one in there if _is_running(one)), None)
            if holder is not None and not self._may_be_dead(holder):
                continue
            if (claim := self._claimed(place, there)) is not None:
                return claim
        return None

    def _may_be_dead(self, trial: Any) -> bool:
        worker = trial.user_attrs.get(WORKER, {})
        if worker.get("place") == _this_place(self.folder):
            return True  # the lock of its folder knows
        count, now = trial.system_attrs.get(BEAT), time.monotonic()
        before, since = self._counts.setdefault(trial._trial_id, (count, now))
        if before != count:
            self._counts[trial._trial_id] = (count, now)
            return False
        return now - since > self.lease

    def _claimed(self, place: int, there: Sequence[Any]) -> "Claim | None":
        import optuna

        folder = trial_folder(self.folder, place)
        folder.mkdir(parents=True, exist_ok=True)
        held = contextlib.ExitStack()
        try:
            held.enter_context(run_folder.held(folder, f"sweep, trial {place}"))
        except UserError:
            return None
        with contextlib.ExitStack() as undone:
            undone.push(held.__exit__)
            for one in filter(_is_running, there):
                self._fail(one._trial_id)
            # What was proposed to whoever had it before is what is tried again.
            before = there[-1] if there else None
            template = optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=before.params if before else {},
                distributions=before.distributions if before else {},
                user_attrs={PLACE: place, WORKER: _this_worker(self.folder)},
                system_attrs={BEAT: 0},
            )
            with self.storage.asked():
                number = self.storage.optuna.create_new_trial(self._study, template)
            mine = [one for one in self._trials()[place] if _holds(one)]
            if mine and mine[0]._trial_id != number:
                self._fail(number)
                return None
            undone.pop_all()
            return Claim(self, place, folder, number, held)
        return None

    def _fail(self, number: int) -> bool:
        """Give one of Optuna's trials up; say whether it was not finished before."""
        import optuna

        try:
            with self.storage.asked():
                self.storage.optuna.set_trial_state_values(
                    number, optuna.trial.TrialState.FAIL, None
                )
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _proposing(self, place: int) -> Any:
        """Return Optuna's study as one place sees it: by a seed of its own, whoever works on it."""
        import optuna

        seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that both may change yet
            if self._sampler == "tpe":
                # Scale and interval go together. What others are trying counts as bad, so that
                # it is not proposed again.
                sampler: Any = optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, constant_liar=True
                )
            else:
                sampler = optuna.samplers.RandomSampler(seed=seed)
        pruner: Any = optuna.pruners.NopPruner()
        if self._pruning is not None:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=self._pruning.startup)
        found = optuna.load_study(
            study_name=self.name, storage=self.storage.optuna, sampler=sampler, pruner=pruner
        )
        # Optuna's memory of a database knows the trials that it has listed.
        found.get_trials(deepcopy=False)
        return found


class Claim:
    """A place that this process works on, until `finish` or `release`.

    Attributes:
        place: its number.
        folder: for what is made there.
    """

    def __init__(
        self, study: Study, place: int, folder: Path, number: int, held: contextlib.ExitStack
    ):
        self.place, self.folder = place, folder
        self._study, self._number, self._held = study, number, held
        self._lost, self._ended = threading.Event(), threading.Event()
        self._trial: Any = None
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beating.start()

    def _beat(self) -> None:
        import optuna

        storage, count = self._study.storage, 0
        while not self._ended.wait(self._study.lease / BEATS):
            count += 1
            try:
                storage.optuna.set_trial_system_attr(self._number, BEAT, count)
            except optuna.exceptions.UpdateFinishedTrialError:
                self._lost.set()
                break
            except Exception:  # a storage that is away for a moment: asked again at the next one
                continue
        if hasattr(storage.optuna, "remove_session"):
            storage.optuna.remove_session()

    def require(self) -> None:
        """Raise where the place is not held any more.

        Raises:
            Lost: another worker has it.
        """
        if self._lost.is_set():
            raise Lost

    def proposed(self, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return a value for each parameter of a space.

        Args:
            space: as `require_space` takes it.
        """
        with self._study.storage.asked():
            trial = self._optuna()
            return {name: trial._suggest(name, _distribution(one)) for name, one in space.items()}

    def hopeless(self, value: float, step: int) -> bool:
        """Report what a small sample says; say whether the trial is to be given up."""
        with self._study.storage.asked():
            trial = self._optuna()
            if step not in self._study.storage.optuna.get_trial(self._number).intermediate_values:
                trial.report(value, step)
            return trial.should_prune()

    def _optuna(self) -> Any:
        import optuna

        if self._trial is None:
            self._trial = optuna.trial.Trial(self._study._proposing(self.place), self._number)
        return self._trial

    def finish(self, state: str, row: Mapping[str, Any], value: float | None = None) -> None:
        """Say what became of the trial, and let the place go.

        Args:
            state: "complete", "pruned" or "failed".
            row: JSON data to keep.
            value: what a complete one is judged at.

        Raises:
            Lost: another worker has it.
            UserError: the storage cannot be reached.
        """
        import optuna

        states = optuna.trial.TrialState
        last = {COMPLETE: states.COMPLETE, PRUNED: states.PRUNED, FAILED: states.FAIL}[state]
        values = None if value is None else (float(value),)
        storage = self._study.storage
        try:
            with storage.asked():
                storage.optuna.set_trial_user_attr(self._number, ROW, plain(row))
                if state == FAILED:
                    storage.optuna.set_trial_user_attr(self._number, ERROR, True)
                storage.optuna.set_trial_state_values(self._number, last, values)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise Lost from error
        finally:
            self._let_go()

    def release(self) -> None:
        """Leave the trial to whoever comes next."""
        try:
            self._study._fail(self._number)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._ended.set()
        self._beating.join()
        self._held.close()


def _is_running(trial: Any) -> bool:
    return trial.state.name == "RUNNING"


def _state(trial: Any) -> str | None:
    """Return the last state of one of Optuna's trials; None of one that is to be tried again."""
    if trial.state.name == "FAIL":
        return FAILED if trial.user_attrs.get(ERROR) else None
    return {"COMPLETE": COMPLETE, "PRUNED": PRUNED}.get(trial.state.name)


def _holds(trial: Any) -> bool:
    return _is_running(trial) or _state(trial) is not None


def _this_place(folder: Path) -> list[Any]:
    """Return what two workers share whose locks know of each other: machine and folder."""
    found = os.stat(folder)
    return [run_folder.machine(), found.st_dev, found.st_ino]


def _this_worker(folder: Path) -> dict[str, Any]:
    return {"place": _this_place(folder), "pid": os.getpid(), "host": os.uname().nodename}


def _distribution(section: Mapping[str, Any]) -> Any:
    from optuna import distributions as kinds

    if "choices" in section:
        return kinds.CategoricalDistribution(list(section["choices"]))
    kind = kinds.IntDistribution if section.get("int") else kinds.FloatDistribution
    return kind(section["low"], section["high"], log=bool(section.get("log", False)))


def require_space(space: Mapping[str, Mapping[str, Any]], place: str) -> None:
    """Refuse a space that cannot be searched.

    Args:
        space: by parameter ``low`` and ``high`` (with ``log``, ``int``), or ``choices``.
        place: the space, for messages.

    Raises:
        UserError: naming the parameter.
    """
    if not space:
        raise UserError(f"{place} is empty: say which fields are searched, and between what")
    for name, section in space.items():
        here = f"{place}, {name}"
        known = {"choices"} if "choices" in section else {"low", "high", "log", "int"}
        if unknown := sorted(section.keys() - known):
            raise UserError(f"{here}: {unknown[0]!r} is none of {', '.join(sorted(known))}")
        if "choices" in section:
            chosen = section["choices"]
            plain_ones = isinstance(chosen, (list, tuple)) and all(
                one is None or isinstance(one, (str, int, float)) for one in chosen
            )
            if not plain_ones or not chosen:
                raise UserError(f"{here}: choices is a list of numbers or words, got {chosen!r}")
            continue
        if missing := [key for key in ("low", "high") if key not in section]:
            raise UserError(f"{here} lacks {missing[0]}: give low and high, or choices")
        low, high = section["low"], section["high"]
        require_ranges(here, {"low": low, "high": high}, {"low": Range(), "high": Range(low)})
        if section.get("log") and low <= 0:
            raise UserError(f"{here}: low is {low}, and a logarithmic scale begins above 0")
        if section.get("int") and not (isinstance(low, int) and isinstance(high, int)):
            raise UserError(f"{here}: low {low} and high {high} are to be whole numbers")
