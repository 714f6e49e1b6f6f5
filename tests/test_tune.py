"""Studies: trials that are their number, broken off and taken up again, shared by workers without doubling."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import bench
from postgres_fixture import postgres

from bench.errors import InputError
from bench.search import Range, Search, TuningSpec
from bench.studies import write_record
from bench.tune import HopelessError, Study, reach

__all__ = ["postgres"]

SPACE = {
    "beta": Range(0.1, 10.0, True, False, 1.0),
    "latent_dim": Range(8, 64, True, True, 32),
    "momentum": Range(0.0, 0.9, False, False, 0.5),
}


def make(folder: Path, **changes) -> Search:
    return Search("vae", "abc", folder, SPACE, 1000, TuningSpec(**{"trials": 8, **changes}))


def value(parameters) -> float:
    return (parameters["beta"] - 3) ** 2 + abs(parameters["momentum"] - 0.2) + parameters["latent_dim"] / 100


def work(search: Search, *, most: int = 100) -> None:
    """Take and finish trials, at most so many, each by a `Study` of its own as processes do."""
    while most and (taken := Study(search).take()):
        most -= 1
        for seen in (250, 500, 750):
            with suppress(HopelessError):
                taken.report(seen, value(taken.parameters) + 1000 / seen, last=False)
                continue
            taken.end("pruned", "worse")
            break
        else:
            taken.finish([value(taken.parameters)], images_seen=1000, seconds=1.0)


def seen(search: Search):
    return [
        (trial.number, trial.state, trial.parameters, trial.values, trial.looks) for trial in Study(search).trials()
    ]


def test_first_trial_has_the_defaults_and_the_rest_differ(tmp_path):
    search = make(tmp_path, pruning=False)
    work(search)
    trials = Study(search).trials()
    assert [trial.number for trial in trials] == list(range(8))
    assert dict(trials[0].parameters) == {"beta": 1.0, "latent_dim": 32, "momentum": 0.5}
    assert len({tuple(sorted(trial.parameters.items())) for trial in trials}) == 8
    assert all(isinstance(trial.parameters["latent_dim"], int) for trial in trials)
    assert Study(search).ended()
    assert Study(search).take() is None


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_going_on_is_as_if_never_stopped(tmp_path, storage):
    kind = {"storage": storage, "trials": 8 if storage == "journal" else 5}
    straight, broken = make(tmp_path / "straight", **kind), make(tmp_path / "broken", **kind)
    work(straight)
    work(broken, most=2)
    work(broken, most=2)
    work(broken)
    assert seen(broken) == seen(straight)
    assert {trial.state for trial in Study(straight).trials()} >= {"finished"}


KILLED = """
import json, os, sys, time
from bench.search import Search
from bench.tune import Study
taken = Study(Search.from_json(json.loads(sys.argv[1]))).take()
taken.report(250, 5.0, last=False)
print(taken.number, flush=True)
time.sleep(60)
"""


def start(code: str, search: Search) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(search.to_json())], stdout=subprocess.PIPE, text=True
    )


def test_killed_trial_is_taken_up_again_under_its_number(tmp_path):
    straight, search = make(tmp_path / "straight", pruning=False), make(tmp_path / "killed", pruning=False)
    work(straight)
    work(search, most=5)
    with start(KILLED, search) as process:
        assert process.stdout.readline().strip() == "5"
        study = Study(search)
        assert study.open() == 2, "a living process's trial is not open"
        other = study.take()
        assert other.number == 6, "another worker takes another one"
        other.put_back()
        os.kill(process.pid, signal.SIGKILL)
    assert Study(search).open() == 3
    again = Study(search).take()
    assert again.number == 5
    assert again.parameters == straight_parameters(straight, 5)
    again.report(250, value(again.parameters), last=False)  # told before: it stays as it was told
    again.finish([value(again.parameters)])
    work(search)
    numbers = [trial.number for trial in Study(search).trials()]
    assert numbers == list(range(8))
    assert straight_parameters(search, 5) == straight_parameters(straight, 5)


def straight_parameters(search: Search, number: int):
    return dict(Study(search).trials()[number].parameters)


def test_one_who_lost_a_trial_changes_nothing(tmp_path):
    search = make(tmp_path)
    first = Study(search).take()
    first.put_back()
    second = Study(search).take()
    assert second.number == first.number == 0
    first.finish([1.0])
    assert Study(search).trials()[0].state == "running"
    second.finish([2.0])
    assert Study(search).trials()[0].values == (2.0,)
    first.end("failed", "late")
    assert Study(search).trials()[0].values == (2.0,)


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_trial_that_was_lost_with_its_copy_of_the_study_is_taken_up_or_given_up(tmp_path, storage):
    search = make(tmp_path, storage=storage)
    work(search, most=2)
    study = Study(search)
    study.release(2)  # taken on a node, whose copy never came back
    assert study.open() == 6
    study.give_up(2, "its node was lost three times")
    told = Study(search).trials()
    assert [trial.state for trial in told] == ["finished", "finished", "failed"]
    assert told[2].reason == "its node was lost three times"
    assert Study(search).take().number == 3


def test_a_study_s_file_may_be_replaced_by_a_copy_that_has_more(tmp_path):
    for storage in ("journal", "sqlite"):
        here, there = make(tmp_path / storage / "here", storage=storage), make(tmp_path / storage, storage=storage)
        study = Study(here)
        (name,) = (path.name for path in here.folder.iterdir() if path.suffix in (".journal", ".db"))
        (there.folder / name).write_bytes((here.folder / name).read_bytes())
        work(there, most=2)
        (there.folder / name).replace(here.folder / name)
        assert [trial.state for trial in Study(here).trials()] == ["finished", "finished"]
        if storage == "journal":  # whoever has it open reads on where it was; with SQLite, it must be opened anew
            assert [trial.state for trial in study.trials()] == ["finished", "finished"]


def test_hopeless_trials_are_pruned_but_not_early_nor_at_their_end(tmp_path):
    search = make(tmp_path, trials=6)
    for number in range(4):
        taken = Study(search).take()
        for images in (250, 500, 750):
            taken.report(images, 1.0 - number / 10, last=False)
        taken.finish([1.0 - number / 10])
    taken = Study(search).take()
    taken.report(250, 50.0, last=False)
    with pytest.raises(HopelessError):
        taken.report(500, 50.0, last=False)
    taken.report(750, 50.0, last=True)
    taken.end("pruned", "worse")
    good = Study(search).take()
    good.report(500, 0.5, last=False)
    good.finish([0.5])
    unpruned = make(tmp_path / "unpruned", pruning=False)
    work(unpruned, most=4)
    taken = Study(unpruned).take()
    taken.report(500, 1e9, last=False)


def test_record_has_best_front_and_importances(tmp_path):
    search = make(tmp_path, trials=10, pruning=False)
    work(search, most=8)
    diverged = Study(search).take()
    diverged.end("diverged", "diverged at step 3: the loss is nan", images_seen=30, seconds=0.5)
    failed = Study(search).take()
    failed.end("failed", "out of memory")
    write_record(search, 200, None)
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["status"] == "finished"
    assert [trial["state"] for trial in record["trials"]] == ["finished"] * 8 + ["diverged", "failed"]
    least = min(record["trials"][:8], key=lambda trial: trial["values"][0])
    assert record["best"]["number"] == least["number"]
    assert record["front"] == [least["number"]]
    assert record["images_seen"] == 8 * 1000 + 30
    assert set(record["importances"]) == set(SPACE)
    assert sum(record["importances"].values()) == pytest.approx(1)
    rows = (tmp_path / "trials.csv").read_text().splitlines()
    assert rows[0] == "number,state,frechet_distance,images_seen,seconds,beta,latent_dim,momentum,looks,reason"
    assert len(rows) == 11


def test_several_objectives_have_a_front(tmp_path):
    search = make(tmp_path, trials=4, objective=["frechet_distance", "parameters"])
    for values in ((3.0, 10.0), (2.0, 20.0), (4.0, 30.0), (1.0, 40.0)):
        taken = Study(search).take()
        taken.report(500, values[0], last=False)
        taken.finish(values)
    write_record(search, 200, None)
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["front"] == [0, 1, 3]
    assert record["best"]["number"] == 3, "the first objective decides"


def test_no_trial_finished_is_said(tmp_path):
    search = make(tmp_path, trials=2)
    for _ in range(2):
        Study(search).take().end("failed", "out of memory")
    write_record(search, 200, None)
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["status"] == "failed"
    assert record["reason"] == "none of 2 trials finished; the first one: out of memory"


def test_a_database_that_is_not_there_is_told_before_anything_starts(tmp_path):
    given = ("smoke", "--set", "tuning.trials=2", "--set", "tuning.storage=postgresql://bench@127.0.0.1:1/x")
    for command in ("run", "check"):
        done = bench(command, *given, cwd=tmp_path, check=2)
        assert "tuning.storage: postgresql://bench@127.0.0.1:1/x can't be used: " in done.stderr
        assert not (tmp_path / "results").exists()
    reach(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()


def test_storage_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^tuning\.storage: postgresql://127\.0\.0\.1:1/nowhere can't be used: .*"):
        Study(make(tmp_path, storage="postgresql://127.0.0.1:1/nowhere"))
    with pytest.raises(InputError, match="needs a driver that is missing here"):
        Study(make(tmp_path, storage="mysql+pymysql://127.0.0.1/nowhere"))


# ---- workers


WORKER = """
import json, sys, time
from bench.search import Search
from bench.tune import Study
search = Search.from_json(json.loads(sys.argv[1]))
study, mine = Study(search), []
while taken := study.take():
    time.sleep(0.02)
    taken.finish([taken.parameters["beta"]], images_seen=1000)
    mine.append(taken.number)
print(json.dumps(mine))
"""


def share(search: Search) -> list[list[int]]:
    Study(search)
    processes = [start(WORKER, search) for _ in range(2)]
    found = []
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        found.append(json.loads(output))
    return found


def check_shared(search: Search, first: list[int], second: list[int]) -> None:
    assert sorted(first + second) == list(range(search.spec.trials)), "every trial once"
    assert first
    assert second
    trials = Study(search).trials()
    assert [trial.number for trial in trials] == list(range(search.spec.trials))
    assert all(trial.state == "finished" for trial in trials)
    assert len({tuple(sorted(trial.parameters.items())) for trial in trials}) == search.spec.trials


def test_two_workers_share_a_journal(tmp_path):
    search = make(tmp_path, trials=40)
    check_shared(search, *share(search))


def test_two_workers_share_a_postgresql_study(postgres, tmp_path):
    search = make(tmp_path, trials=40, storage=postgres)
    check_shared(search, *share(search))
    elsewhere = make(tmp_path / "elsewhere", trials=40, storage=postgres)
    assert seen(elsewhere) == seen(search), "another results folder sees the same study"


def test_two_machines_share_a_postgresql_study(postgres, tmp_path):
    """Results folders of their own, so no lock between them: the storage alone keeps trials apart."""
    searches = [make(tmp_path / name, trials=40, storage=postgres) for name in ("one", "two")]
    Study(searches[0])
    processes = [start(WORKER, search) for search in searches]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    check_shared(searches[0], *found)
