"""Ids say when something must be done again: what a suite does not ask for never makes it."""

from dataclasses import replace

import pytest

from bench import plan
from bench.plan import make_plan
from bench.store import Store
from bench.suite import load_suite, resolve

SUITE = """
name: ids
data: {source: scanner_phantom, image_size: [32, 32], subjects: 20}
generators: [mean_image]
budget: {images_seen: 100}
evaluation: {draws: 3, features: [random], measures: [frechet_distance, ssim]}
"""


@pytest.fixture
def ids(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    suite = resolve(load_suite(tmp_path / "suite.yaml"))

    def ids() -> tuple[str, list[str], list[str]]:
        facts = {"fingerprint": "0" * 16, "split_hash": "1" * 16, "simulated": True, "fresh": False, "device": "cpu"}
        made = make_plan(suite, Store(tmp_path / "out", suite.name), **facts)
        return made.reference_id, [row.train_id for row in made.trainings], [row.eval_id for row in made.rows]

    return ids


def raised(monkeypatch, name: str) -> None:
    measure = plan.MEASURES[name]
    monkeypatch.setitem(plan.MEASURES, name, replace(measure, version=measure.version + 1))


def test_a_measure_that_is_not_asked_for_changes_no_id(ids, monkeypatch):
    before = ids()
    raised(monkeypatch, "recall")
    monkeypatch.setitem(plan.GROUPS, "a new one", ("recall",))
    assert ids() == before


def test_a_measure_that_is_asked_for_is_scored_again_without_training(ids, monkeypatch):
    reference, trainings, evaluations = ids()
    raised(monkeypatch, "ssim_diversity")
    now = ids()
    assert now[:2] == (reference, trainings), "nothing of the real side or of a training depends on it"
    assert not set(now[2]) & set(evaluations)


def test_a_measure_of_the_real_side_is_taken_again(ids, monkeypatch):
    before = ids()
    raised(monkeypatch, "frechet_distance")
    assert ids()[0] != before[0]


def test_balanced_sampling_trains_anew_and_natural_sampling_changes_nothing(tmp_path):
    """The ids of a suite that says nothing of sampling are those of version 0.1.0."""

    def made(more: str) -> tuple[str, str, str]:
        (tmp_path / "suite.yaml").write_text(f"{SUITE}threads: 1\nprecision: float32\n{more}")
        suite = resolve(load_suite(tmp_path / "suite.yaml"))
        facts = {"fingerprint": "0" * 16, "split_hash": "1" * 16, "simulated": True, "fresh": False, "device": "cpu"}
        plan = make_plan(suite, Store(tmp_path / "out", suite.name), **facts)
        return plan.reference_id, plan.trainings[0].train_id, plan.rows[-1].eval_id

    before = ("10952e05572a", "013d9c9537b4", "00709d2dcc8c")
    assert made("") == made("sampling: natural\n") == before
    balanced = made("sampling: balanced\n")
    assert balanced[0] == before[0], "the real side is the same"
    assert balanced[1] != before[1]
