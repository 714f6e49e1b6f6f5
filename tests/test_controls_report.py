"""The table measure x fault: the rule, what is said of claims, and where it appears."""

import math
from pathlib import Path

import numpy as np
import pytest

from bench.metrics.records import MEASURES
from bench.report import faults
from bench.report.fault_claims import CLAIMS, FAULTS, claim_on
from bench.report.faults import Asked, fault_check, fault_lines, fault_tables, judge, sight
from bench.report.page import all_tables, render_page
from bench.report.results import ALL, Key, Results, Run, Score
from bench.report.tables import Number, lines
from bench.report.verdict import checks

CLASSES = ("one", "two")
CLEAN = {
    Key(ALL, "domain", "frechet_distance"): 1.0,
    Key(ALL, "domain", "precision"): 0.7,
    Key(ALL, "domain", "recall"): 0.8,
    Key(ALL, "domain", "coverage"): 0.9,
    Key(ALL, "domain", "class_accuracy"): 0.95,
    Key(ALL, "", "ssim_diversity"): 0.5,
    Key(ALL, "", "memorization"): 0.0,
    **{Key(name, "domain", "frechet_distance"): 2.0 for name in CLASSES},
}
DEVIATION = 0.01


def number(mean, std=DEVIATION):
    return Number(mean, std, None, None, None, 100, 20, frozenset())


def run(generator, changes=(), family=None, std=DEVIATION, status="finished"):
    floor = generator.startswith("floor")
    values = {**CLEAN, **dict(changes)}
    scores = {k: Score(v, std, 20, 100, 100, None, None, "", (), ()) for k, v in values.items() if v is not None}
    role = "floor" if floor else "control" if (family or generator) in FAULTS else "family"
    return Run(generator, role, 0, status, "", family=family or generator, scores=scores)


def results(*runs, floors=("floor_validation", "floor_fresh"), pool=0):
    return Results(
        folder=Path("nowhere"),
        name="controls",
        stamp=None,
        runs=(*(run(name) for name in floors), *runs),
        data={
            "title": "test",
            "class_names": list(CLASSES),
            "simulated": True,
            "shape": [1, 8, 8],
            "n": 9,
            "fingerprint": "f",
        },
        split={"by": "subject", "seed": 0, "leaking_subjects": 0, "train": 1, "validation": 1, "test": 1, "hash": "h"},
        classes=[{"name": name, "train": 1000, "validation": pool, "test": 50} for name in CLASSES] if pool else (),
        protocol={"draws": 20, "samples_per_draw": 50, "n_class": 50, "n_all": 100, "measures": [], "replicates": 0},
        features={"domain": {"status": "ok", "dimensions": 8, "rule": "r", "version": "1", "details": {}}},
        suite={},
        suite_text="",
    )


# ---- the rule


@pytest.mark.parametrize(
    ("measure", "mean", "z", "seen"),
    [
        ("frechet_distance", 1.0 + 3.1 * math.sqrt(2) * DEVIATION, 3.1, True),
        ("frechet_distance", 1.0 + 2.9 * math.sqrt(2) * DEVIATION, 2.9, False),
        ("frechet_distance", 0.9, -10 / math.sqrt(2), False),
        ("precision", 0.9, -10 / math.sqrt(2) * -1, True),  # below 1
        ("precision", 1.1, -10 / math.sqrt(2), False),
        ("ssim_diversity", 1.1, 10 / math.sqrt(2), True),
        ("ssim_diversity", 0.9, 10 / math.sqrt(2), True),
        ("a measure of another package", 0.9, 10 / math.sqrt(2), True),
    ],
)
def test_seen_is_beyond_the_floors_in_the_bad_direction(measure, mean, z, seen):
    found = judge(measure, number(mean), [number(1.0)])
    assert found.z == pytest.approx(z)
    assert found.seen is seen
    assert found.fooled is (z < -3)


def test_beyond_every_floor_and_by_the_largest_deviation():
    floors = [number(1.0, 0.01), number(1.2, 0.03)]
    assert judge("frechet_distance", number(1.1), floors).z == 0, "between the floors"
    assert judge("frechet_distance", number(1.6, 0.04), floors).z == pytest.approx(0.4 / 0.05)
    assert judge("precision", number(0.5, 0.04), floors).z == pytest.approx(0.5 / 0.05)


def test_without_any_deviation_a_difference_is_infinite_and_none_is_none():
    assert judge("recall", number(0.0, 0.0), [number(1.0, 0.0)]).z == math.inf
    assert judge("recall", number(1.0, math.nan), [number(1.0, 0.0)]).z == 0


def test_memorization_asks_for_copies_alone():
    floors = [number(0.2, 0.5), number(-0.2, 0.5)]
    assert judge("memorization", number(-16.0, 0.0), floors).seen
    assert not judge("memorization", number(16.0, 0.0), floors).seen, "far from the training images is no copying"
    assert not judge("memorization", number(-2.5, 0.1), floors).seen, "nearer, but not below the report's threshold"
    assert not judge("memorization", number(16.0, 0.0), floors).fooled


@pytest.mark.parametrize(
    ("label", "pool", "taken"), [(ALL, 100, 0.5), (ALL, 75, 2 / 3), ("one", 200, 0.5), (ALL, 10**9, 0)]
)
def test_draws_that_share_images_are_taken_for_less_different_than_they_are(label, pool, taken):
    """100 images a number, of all or of one class, from so many of each of two classes."""
    key = Key(label, "domain", "frechet_distance")
    worse = {key: 1.0 + (label != ALL) + 100 * DEVIATION}
    found = results(run("blur", worse), floors=("floor_fresh",), pool=pool)
    line = next(line for line in lines(found) if line.generator == "blur")
    row = Asked("frechet_distance", "domain", label != ALL)
    expected = 100 / math.hypot(1, 1 / math.sqrt(1 - taken))
    assert sight(found, line, row).z == pytest.approx(expected, rel=1e-6)
    again = results(run("few_images", worse), floors=("floor_fresh",), pool=pool)  # the same few in every draw
    line = next(line for line in lines(again) if line.generator == "few_images")
    assert sight(again, line, row).z == pytest.approx(100 / math.sqrt(2))


def test_the_correction_is_that_of_a_sample_without_repetition():
    """Means of 40 of 100 values: over draws from one pool they stray by sqrt(0.6) of what they do over fresh values."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        pool = rng.normal(size=100)
        inside.append(np.var([rng.permutation(pool)[:40].mean() for _ in range(30)], ddof=1))
    fresh = np.var(rng.normal(size=(20_000, 40)).mean(axis=1), ddof=1)
    assert math.sqrt(np.mean(inside) / 0.6) == pytest.approx(math.sqrt(fresh), rel=0.03)


def test_draws_of_nearly_all_images_judge_nothing():
    """Every draw is the same there, and any difference would be infinitely many of its deviations."""
    few = results(run("blur", BLUR), run("one_mode", BLUR), floors=("floor_validation",), pool=52)
    (table,) = fault_tables(few)
    assert any(note.startswith("A draw takes over nine tenths of the real images") for note in table.notes)
    assert set(cells(table).values()) <= {""}
    check = next(check for check in checks(few) if check.name == "blur")
    assert (check.ok, check.found.split(" Not measured")[0]) == (None, "Not judged.")
    with_fresh = results(run("blur", BLUR), run("one_mode", BLUR), pool=52)  # its deviation is known, the blur's is not
    (table,) = fault_tables(with_fresh)
    pooled = table.sections[0][0]
    assert cells(table)[pooled, "FD (domain)", "blur"] == ""
    assert cells(table)[pooled, "FD (domain)", "one mode"].startswith("↓")
    assert "so nothing can be judged of floor validation, blur: ask" in " ".join(table.notes)


# ---- the table

BLUR = {Key(ALL, "domain", "frechet_distance"): 2.0, Key(ALL, "domain", "precision"): 0.1}
SHUFFLED = {
    Key(ALL, "domain", "class_accuracy"): 0.6,
    Key("two", "domain", "frechet_distance"): 2.5,
}


def cells(table):
    heads = [column.title for column in table.columns[1:]]
    return {
        (title, row[0].text, head): cell.text
        for title, rows in table.sections
        for row in rows
        for head, cell in zip(heads, row[1:], strict=True)
    }


def the_table(*runs, **options):
    return fault_tables(results(*runs, **options))


def test_no_table_without_faults():
    assert the_table(run("cvae"), run("training_copy"), run("mean_image")) == []


def test_cells_say_what_is_seen_and_where_claims_fail():
    (table,) = the_table(run("held_out"), run("blur", BLUR), run("shuffled_labels", SHUFFLED), run("cvae", BLUR))
    found = cells(table)
    pooled, by_class = (title for title, _ in table.sections)
    assert [column.title for column in table.columns] == ["Measure", "held out", "shuffled labels", "blur"]
    assert found[pooled, "FD (domain)", "blur"] == "↓ 71"
    assert found[pooled, "Precision (domain)", "blur"] == "↓ 42"
    assert found[pooled, "FD (domain)", "shuffled labels"] == "–"
    assert found[by_class, "FD (domain)", "shuffled labels"] == "↓ 35", "the class in which it shows"
    assert found[by_class, "FD (domain)", "blur"] == "–†", "FD by class is said to see blur"
    assert {text for (_, _, head), text in found.items() if head == "held out"} == {"–"}
    assert "† FD (domain) by class: blur." in table.notes
    assert "‡ Nowhere." in table.notes


def test_what_is_seen_against_a_claim_or_better_than_real_is_marked():
    ghost = {Key(ALL, "domain", "frechet_distance"): 1.3, Key(ALL, "domain", "precision"): 0.9}
    (table,) = the_table(run("held_out", ghost), run("shuffled_labels", ghost), run("one_mode"))
    found, pooled = cells(table), table.sections[0][0]
    assert found[pooled, "FD (domain)", "shuffled labels"] == "↓ 21‡"
    assert found[pooled, "FD (domain)", "held out"] == "↓ 21‡", "a false alarm"
    assert found[pooled, "Precision (domain)", "shuffled labels"] == "↑ 14"
    assert found[pooled, "Recall (domain)", "one mode"] == "–†"


def test_a_measure_nobody_knows_takes_part_and_one_without_real_value_is_named():
    new = {Key(ALL, "", "new_measure"): 3.0}
    found = results(run("blur", new))
    assert "Not judged, for want of real data's own value: new_measure." in fault_tables(found)[0].notes
    with_floor = results(run("blur", new), run("floor_other", {Key(ALL, "", "new_measure"): 1.0}), floors=())
    table = fault_tables(with_floor)[0]
    assert cells(table)[table.sections[0][0], "new_measure", "blur"] == "↓ 99+"


def test_a_row_with_a_label_of_its_own_and_one_that_failed():
    found = results(run("a little blur", BLUR, family="blur"), run("noise", status="failed"))
    assert [line.generator for line in fault_lines(found)] == ["a little blur"]
    assert len(fault_tables(found)[0].columns) == 2
    failed = next(check for check in checks(found) if check.name == "noise")
    assert failed.ok is None
    assert failed.found == "failed"


def test_it_stands_in_the_report():
    found = results(run("blur", BLUR))
    assert [table.name for table in all_tables(found)].count("faults") == 1
    page = render_page(found, [])
    assert page.count('<table class="faults">') == 1
    assert page.index('id="controls"') < page.index('<table class="faults">') < page.index('id="protocol"')
    without = results(run("cvae"), run("training_copy"), run("mean_image"))
    assert "faults" not in {table.name for table in all_tables(without)}


# ---- the controls judged


def judged(name, *runs):
    return next(check for check in checks(results(*runs)) if check.name == name)


def test_controls_are_judged_by_who_must_see_them():
    assert judged("blur", run("blur", BLUR)).ok
    assert "Seen by FD (domain) and Precision (domain)." in judged("blur", run("blur", BLUR)).found
    assert judged("blur", run("blur")).ok is False, "a fault that nobody sees"
    assert judged("shuffled_labels", run("shuffled_labels", SHUFFLED)).ok
    seen_pooled = {**SHUFFLED, Key(ALL, "domain", "frechet_distance"): 2.0}
    assert judged("shuffled_labels", run("shuffled_labels", seen_pooled)).ok is False
    assert judged("held_out", run("held_out")).ok
    assert judged("held_out", run("held_out", BLUR)).ok is False
    copied = {**BLUR, Key(ALL, "", "memorization"): -9.0}
    assert judged("blur", run("blur", copied)).ok is False, "a blur that is called a copy"
    unmeasured = {**BLUR, Key(ALL, "domain", "precision"): None}
    assert judged("blur", run("blur", unmeasured)).ok is None


def test_every_fault_has_its_name_its_claims_and_its_family():
    from bench.registry import GENERATORS

    for name, fault in FAULTS.items():
        assert GENERATORS.describe(name).attributes["family"] == "control", name
        assert {one.removesuffix(faults.BY_CLASS) for one in (*fault.must, *fault.must_not)} <= set(MEASURES), name
    for name, claim in CLAIMS.items():
        assert name.removesuffix(faults.BY_CLASS) in MEASURES, name
        assert not claim.sees & claim.blind, name
    for name, fault in FAULTS.items():  # what must be seen is said to be seen, or nobody has said anything
        for must in fault.must:
            assert name not in CLAIMS[must].blind, (name, must)
        for must_not in fault.must_not:
            assert name not in CLAIMS[must_not].sees, (name, must_not)


def test_features_change_what_is_said_of_a_measure():
    plain, random, radiomics = (claim_on("frechet_distance", name) for name in ("domain", "random", "radiomics"))
    assert plain == CLAIMS["frechet_distance"]
    assert random.sees == plain.sees | {"intensity"}
    assert radiomics.sees == random.sees - {"swapped_halves"}, "no place is kept"
    assert {"upside_down", "mirrored"} <= radiomics.blind
    assert "intensity" not in claim_on("precision", "radiomics").sees
    assert "blur" in claim_on("precision", "radiomics").sees
    assert claim_on("parameters", "") is None


def test_sight_by_class_takes_the_worst_class_and_none_without_numbers():
    found = results(run("shuffled_labels", SHUFFLED), run("near_copy", dict.fromkeys(CLEAN)))
    shuffled, near = (
        next(line for line in lines(found) if line.generator == n) for n in ("shuffled_labels", "near_copy")
    )
    row = Asked("frechet_distance", "domain", True)
    assert sight(found, shuffled, row).z == pytest.approx(0.5 / (math.sqrt(2) * DEVIATION))
    assert sight(found, near, row) is None
    assert fault_check(found, near)[2] is None


def test_the_docs_state_every_claim():
    text = (Path(__file__).parent.parent / "docs" / "controls.md").read_text(encoding="utf-8")
    for name, said in CLAIMS.items():
        sees, blind = (
            ", ".join(f for f in FAULTS if f in part and f != "held_out") for part in (said.sees, said.blind)
        )
        assert f"| {name} | {sees} | {blind} | {said.source} |" in text, name
