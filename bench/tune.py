"""Studies: which values a trial tries, what came of it, and which were best. The only room that imports Optuna.

A trial is its number: the first has the default values, and what a later one tries depends on the seed, its number and the
trials that ended before it. One that was broken off is taken up again under its own number with the values it had, so a
study that was killed and goes on ends in the same trials as one that was left alone (with one worker; two see each other's
trials end in another order). Nothing here trains.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from bench.database import with_driver
from bench.errors import InputError
from bench.search import Range, Search
from bench.seeds import derive

VERSION = optuna.__version__
ENDED = ("finished", "pruned", "diverged", "failed")
"""States of a trial that stand: a repetition would end alike."""
BEAT_SECONDS = 60.0
STALE_SECONDS = 600.0
"""A trial on another machine that was silent for so long counts as broken off."""
IMPORTANCE_TRIALS = 6
"""Finished trials below which importances are not estimated."""


class HopelessError(Exception):
    """This trial is worse on its way than most were at this point: it need not go on."""


@dataclass(frozen=True)
class Trial:
    """A trial as stored."""

    number: int
    state: str
    """One of `ENDED`, or 'running' or 'waiting'."""
    parameters: Mapping[str, float]
    values: tuple[float, ...]
    """Of the objectives, for finished trials; else empty."""
    looks: Mapping[int, float]
    """Images seen -> the first objective there."""
    images_seen: int
    seconds: float
    reason: str
    commit: str = ""
    """Of the code that ran it; '' where that is not known."""


class Study:
    """A search's trials in their storage, which several processes and machines may share.

    Args:
        search: what is searched; the study is made if the storage has it not.

    Raises:
        InputError: the storage can't be used.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        search.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # of workers on this machine one takes a trial at a time; for others, numbers and signatures must do
        self._lock = FileLock(search.folder / "study.lock")
        self._local = "://" not in search.spec.storage
        spec = search.spec
        startup = min(10, max(3, spec.trials // 4))
        # not in the first third, nor before there is something to be compared with
        median = optuna.pruners.MedianPruner(startup, n_warmup_steps=search.images_seen // 3, n_min_trials=2)
        with self._lock:
            self._storage = _open(search)
            self._study = optuna.create_study(
                storage=self._storage,
                sampler=_Seeded(spec.seed, spec.sampler, startup, search.space),
                pruner=median if spec.prunes else optuna.pruners.NopPruner(),
                study_name=search.name,
                directions=["minimize"] * len(spec.objective),
                load_if_exists=True,
            )
        self._id = self._storage.get_study_id_from_name(search.name)

    def take(self) -> Taken | None:
        """Take the next trial: one that was broken off, else a new one; None if every one has ended or has a worker."""
        with self._lock:
            trials = self._all()
            for trial in trials:
                if trial.state == TrialState.RUNNING and not self._has_worker(trial):
                    self._storage.set_trial_state_values(self._of(trial.number), TrialState.WAITING)
            if len(trials) >= self.search.spec.trials and all(
                trial.state.is_finished() or self._has_worker(trial) for trial in trials
            ):
                return None
            asked = self._study.ask({name: _distribution(within) for name, within in self.search.space.items()})
            if asked.number >= self.search.spec.trials:  # another machine took the last one just now
                self._study.tell(asked, state=TrialState.FAIL)
                return None
            return Taken(self, asked)

    def trials(self) -> list[Trial]:
        """Every trial so far, by number."""
        return [_record(trial) for trial in self._all()]

    def open(self) -> int:
        """Count the trials that nobody has ended or works at."""
        trials = self._all()
        taken = sum(trial.state.is_finished() or self._has_worker(trial) for trial in trials)
        return max(0, self.search.spec.trials - taken)

    def ended(self) -> bool:
        """Whether every trial has ended."""
        trials = self._all()
        return len(trials) >= self.search.spec.trials and all(trial.state.is_finished() for trial in trials)

    def give_up(self, number: int, reason: str) -> None:
        """Mark a trial whose process broke down as failed, so that it isn't tried again and again."""
        while number >= len(self._study.get_trials(deepcopy=False)):  # its node was lost with its copy of the study
            self._study.ask({name: _distribution(within) for name, within in self.search.space.items()})
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self._of(number), "about", {"state": "failed", "reason": reason})
            self._storage.set_trial_state_values(self._of(number), TrialState.FAIL)

    def release(self, number: int) -> None:
        """Leave a trial whose process is known to be gone to be taken up again; one that was never heard of is so anyway."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, KeyError):
            self._storage.set_trial_state_values(self._of(number), TrialState.WAITING)

    def importances(self) -> dict[str, float]:
        """How much of the first objective's variation each hyper-parameter explains (PED-ANOVA); empty for few trials.

        Watanabe, Bansal & Hutter 2023, PED-ANOVA, https://arxiv.org/abs/2304.10255: shares that add up to 1, estimated
        from the best quarter of the trials.
        """
        finished = [trial for trial in self._all() if trial.state == TrialState.COMPLETE]
        if len(finished) < IMPORTANCE_TRIALS or len(self.search.space) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message="PedAnovaImportanceEvaluator computes")  # low is what is wanted
            found = optuna.importance.get_param_importances(
                self._study, evaluator=evaluator, target=lambda trial: trial.values[0]
            )
        return {name: float(value) for name, value in found.items()}

    def _all(self) -> list[FrozenTrial]:
        """The study's trials but those beyond the number asked for, which two machines may make at once."""
        return self._study.get_trials(deepcopy=False)[: self.search.spec.trials]

    def _of(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _has_worker(self, trial: FrozenTrial) -> bool:
        if trial.state != TrialState.RUNNING:
            return False
        worker = trial.user_attrs.get("worker")
        if worker is None:  # killed before it could sign; on another machine it may be about to
            fresh = trial.datetime_start and datetime.now() - trial.datetime_start < timedelta(seconds=BEAT_SECONDS)
            return bool(fresh) and not self._local
        if worker["machine"] != _machine():
            return time.time() - float(trial.user_attrs.get("beat", worker["time"])) < STALE_SECONDS
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(worker["process"]).create_time() == worker["started"])
        return False


class Taken:
    """A trial that this process works at."""

    def __init__(self, study: Study, trial: optuna.Trial) -> None:
        self._study, self._trial = study, trial
        self.number = trial.number
        self.parameters: dict[str, float] = dict(trial.params)
        process = psutil.Process()
        signature = {"machine": _machine(), "process": process.pid, "started": process.create_time()}
        self._signature = {**signature, "time": time.time(), "token": secrets.token_hex(8)}
        trial.set_user_attr("worker", self._signature)
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="trial-beat").start()

    def report(self, images_seen: int, value: float, *, last: bool) -> None:
        """Tell the first objective on the way.

        Raises:
            HopelessError: the trial is to be ended here; never at its last look.
        """
        if len(self._study.search.spec.objective) > 1:
            return
        if images_seen not in self._study._study.get_trials(deepcopy=False)[self.number].intermediate_values:
            self._trial.report(value, images_seen)  # one taken up again repeats what it told
        if not last and self._trial.should_prune():
            raise HopelessError

    def finish(self, values: Sequence[float], **about: Any) -> None:
        """Store the objectives' values, and what the trial took."""
        self._end(TrialState.COMPLETE, values, {"state": "finished", "reason": "", **about})

    def end(self, state: str, reason: str, **about: Any) -> None:
        """Store that the trial ended without values: 'pruned', 'diverged' or 'failed'."""
        # what diverged is as bad as what was pruned: the sampler is to learn from both, and from no failure
        stored = TrialState.FAIL if state == "failed" else TrialState.PRUNED
        self._end(stored, None, {"state": state, "reason": reason, **about})

    def put_back(self) -> None:
        """Leave the trial to be taken up again."""
        self._over.set()
        self._study.release(self.number)

    def _end(self, state: TrialState, values: Sequence[float] | None, about: dict[str, Any]) -> None:
        self._over.set()
        now = self._study._study.get_trials(deepcopy=False)[self.number]
        if now.state.is_finished() or now.user_attrs.get("worker") != self._signature:
            return  # another took it up, thinking this process gone: it finds the same
        self._trial.set_user_attr("about", about)
        self._study._study.tell(self._trial, values, state=state)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # a storage that is away for a while stops no training
                self._trial.set_user_attr("beat", time.time())


class _Seeded(optuna.samplers.BaseSampler):
    """A sampler that is made anew for each trial from its number; the first trial gets the default values."""

    def __init__(self, seed: int, kind: str, startup: int, space: Mapping[str, Range]) -> None:
        self._seed, self._kind, self._startup, self._space = seed, kind, startup, space
        self._made: tuple[int, optuna.samplers.BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if self._made is None or self._made[0] != trial.number:
            seed = derive(self._seed, "trial", trial.number) % 2**32
            made: optuna.samplers.BaseSampler = (
                optuna.samplers.TPESampler(n_startup_trials=self._startup, seed=seed)
                if self._kind == "tpe"
                else optuna.samplers.RandomSampler(seed)
            )
            self._made = (trial.number, made)
        return self._made[1]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing for the first trial."""
        return {} if trial.number == 0 else self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values that heed each other."""
        return {} if trial.number == 0 else self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value that heeds no other."""
        if trial.number == 0:
            return self._space[param_name].default
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


def _distribution(within: Range) -> BaseDistribution:
    if within.integer:
        return IntDistribution(int(within.low), int(within.high), log=within.log)
    return FloatDistribution(within.low, within.high, log=within.log)


def _record(trial: FrozenTrial) -> Trial:
    about = trial.user_attrs.get("about") or {}
    ended = trial.state.is_finished()
    state = about.get("state", "failed") if ended else trial.state.name.lower()
    return Trial(
        trial.number,
        state,
        dict(trial.params),
        tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
        {int(step): value for step, value in (about.get("looks") or trial.intermediate_values).items()},
        int(about.get("images_seen", 0)),
        float(about.get("seconds", 0.0)),
        str(about.get("reason", "")) if ended else "",
        str(about.get("commit") or ""),
    )


def _open(search: Search) -> optuna.storages.BaseStorage:
    """Open the storage that the suite names.

    Raises:
        InputError: it can't be had; says why.
    """
    name = search.spec.storage
    if name == "journal":
        backend = JournalFileBackend(str(search.folder / "study.journal"))
        return optuna.storages.JournalStorage(backend)
    url = f"sqlite:///{(search.folder / 'study.db').resolve()}" if name == "sqlite" else with_driver(name)
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
    for attempt in range(3):
        try:
            return optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=waiting))
        except Exception as error:
            if attempt == 2 or isinstance(error, ImportError):
                raise _unusable(url if name == "sqlite" else name, error) from None
            time.sleep(1.0)  # another process that makes the tables at this moment is done by then
    raise AssertionError


def reach(storage: str) -> None:
    """See that the database of a suite's studies answers; nothing is written there.

    Args:
        storage: its URL; that of a file need not be there yet.

    Raises:
        InputError: it does not; says why.
    """
    if storage.startswith("sqlite:"):
        return
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(with_driver(storage))
        engine.connect().close()
        engine.dispose()
    except Exception as error:
        raise _unusable(storage, error) from None


def _unusable(url: str, error: Exception) -> InputError:
    """What to say of an error of SQLAlchemy's, or of any driver below it."""
    told = re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)
    if isinstance(error, ImportError):
        hint = "; pip install 'medgenbench[postgres]'" if url.startswith("postgresql") else ""
        return InputError(f"tuning.storage: {told} needs a driver that is missing here: {error}{hint}")
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"tuning.storage: {told} can't be used: {first}")


def _machine() -> str:
    """Where process numbers mean something: this start of this machine, and the namespace they are counted in."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))  # noqa: PTH116
    return "/".join(parts)
