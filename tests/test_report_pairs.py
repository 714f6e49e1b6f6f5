"""Families pair by pair: who is compared, what the matrix says, and what ranks and conclusion make of it."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path

import pytest

from bench.display import results_table
from bench.metrics.records import FEW_TRAINING, FEW_VALIDATION
from bench.report import tables
from bench.report.latex import to_latex
from bench.report.pairs import able, left_out, pair_tables, pairs, pairs_frame
from bench.report.render import to_markdown
from bench.report.results import Results, read_results, results_frame
from bench.report.verdict import conclusion, ranks, warnings

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec is not None
assert _spec.loader is not None
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

THREE = dict.fromkeys(fixture.FAMILIES, 3)
DISTANCE = {**fixture.DISTANCE, "dcgan": 15.0}
ENDINGS = {"wgan_gp": ("failed", "out of memory")}


def read(folder: Path, **options: object) -> Results:
    given = {"seeds": THREE, "distance": DISTANCE, "endings": ENDINGS, **options}
    return read_results(fixture.write_results(folder, **given))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(tmp_path_factory.mktemp("pairs"))


def test_matrix_of_families_with_three_seeds(results: Results) -> None:
    """cvae 14.6 and dcgan 15.6 with seeds 0.6 apart can't be told apart, vae at 31.6 can."""
    first = tables.first_distance(results)
    assert first is not None
    assert [line.generator for line in able(results, first)] == ["cvae", "dcgan", "vae"]
    found = {(pair.first, pair.second): pair for pair in pairs(results, first)}
    assert list(found) == [("cvae", "dcgan"), ("cvae", "vae"), ("dcgan", "vae")]
    near, far = found["cvae", "dcgan"], found["cvae", "vae"]
    assert near.difference == pytest.approx(-1.0)
    assert near.lower < -1 < 0 < near.upper
    assert 0.5 < near.first_better < 0.99
    assert far.first_better > 0.999
    assert (near.apart, far.apart) == (False, True)
    assert ranks(results) == {"cvae": 1, "dcgan": 1, "vae": 3}
    assert "cvae has the lowest FD@280 (domain, vs test), but can't be told from dcgan." in conclusion(results)


def test_matrix_reads_the_same_from_both_sides(results: Results) -> None:
    (table,) = pair_tables(results)
    names = [column.title for column in table.columns[1:]]
    rows = dict(zip(names, table.sections[0][1], strict=True))
    assert rows["cvae"][0].text == "cvae"
    assert rows["cvae"][3].text == "> 0.999*"
    assert rows["vae"][1].text == "< 0.001*"
    assert rows["vae"][3].text == tables.NOTHING
    there, back = rows["cvae"][2], rows["dcgan"][1]
    assert float(there.text) + float(back.text) == pytest.approx(1)
    assert there.detail.startswith("−1.00 [−")
    assert back.detail.startswith("1.00 [−")
    assert any("Not compared: wgan_gp (0 finished seeds)" in note for note in table.notes)
    assert any("per pair" in note and "Holm" in note for note in table.notes)


def test_higher_is_better_where_the_measure_says_so(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from bench.metrics.records import MEASURES

    key = tables.first_distance(results)
    assert key is not None
    lower = {(pair.first, pair.second): pair.first_better for pair in pairs(results, key)}
    monkeypatch.setitem(MEASURES, key.measure, replace(MEASURES[key.measure], better="higher"))
    pairs.cache_clear()
    assert {(p.first, p.second): 1 - p.first_better for p in pairs(results, key)} == pytest.approx(lower)
    monkeypatch.undo()
    pairs.cache_clear()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"seeds": {}}, "no statement about the family"),
        ({"stamp": "not for results"}, "stamped 'not for results'"),
        ({"pending": ("vae",)}, "once every planned run has ended"),
        ({"seeds": {"vae": 3, "cvae": 2}}, "no statement about the family"),
    ],
    ids=["one seed", "stamped", "pending", "one family alone has three"],
)
def test_nobody_is_compared_without_three_seeds_each(tmp_path: Path, options: dict[str, object], why: str) -> None:
    found = read(tmp_path / "x", **options)
    assert pair_tables(found) == []
    assert ranks(found) == {}
    assert pairs_frame(found).empty
    assert why in left_out(found, tables.first_distance(found))


def test_images_made_elsewhere_are_compared_as_one_set(tmp_path: Path) -> None:
    found = read(tmp_path / "x", external=("dcgan",), seeds={"vae": 3, "cvae": 3})
    (table,) = pair_tables(found)
    assert any("this one set" in note for note in table.notes)
    assert "dcgan" in {cell.text for row in table.sections[0][1] for cell in row[:1]}


def test_every_pair_stands_in_a_file_with_full_precision(results: Results) -> None:
    frame = pairs_frame(results)
    assert set(frame["measure"]) == {"frechet_distance", "kernel_distance"}
    assert ((frame["lower"] <= frame["difference"]) & (frame["difference"] <= frame["upper"])).all()
    assert frame["p_holm"].between(0, 1).all()
    back = list(csv.DictReader(io.StringIO(frame.to_csv(index=False))))
    assert float(back[0]["difference"]) == frame["difference"][0]


def test_matrix_can_be_written_as_text(results: Results) -> None:
    assert "\\* The 3 pairs" in to_markdown(pair_tables(results))
    assert "Pair by pair" in to_latex(pair_tables(results))


def test_both_deviations_have_columns_of_their_own(results: Results, tmp_path: Path) -> None:
    table = tables.deviation_table(results)
    assert table is not None
    heads = [column.title for column in table.columns]
    draws, seeds = heads.index("FD@280 draws"), heads.index("FD@280 seeds")
    cvae = next(row for _, rows in table.sections for row in rows if row[0].text == "cvae")
    assert (cvae[draws].text, cvae[seeds].text) == ("± 0.40", "± 0.60")
    copies = next(row for _, rows in table.sections for row in rows if row[0].text == "training_copy")
    assert (copies[draws].text, copies[seeds].text) == ("± 0.40", tables.NOTHING)
    single = tables.main_table(read(tmp_path / "single", seeds={}))
    column = [head.title for head in single.columns].index("Seed std")
    assert {row[column].text for _, rows in single.sections for row in rows} == {tables.NOTHING}
    assert any("no statement about the family" in note for note in single.notes)


def test_long_form_has_both_deviations(results: Results) -> None:
    frame = results_frame(results)
    cvae = frame[(frame["generator"] == "cvae") & (frame["measure"] == "frechet_distance") & (frame["class"] == "all")]
    assert cvae["training_std"].to_list() == pytest.approx([0.6] * 3)
    assert cvae["std"].to_list() == pytest.approx([0.4] * 3)
    assert frame[frame["generator"] == "training_copy"]["training_std"].isna().all()


def test_a_dagger_stands_beside_every_number_of_too_few_images(results: Results) -> None:
    """70 images by class are fewer than twice 63 dimensions; 280 of all classes are not."""
    by_class = tables.class_tables(results)[0]
    cells = [cell.text for _, rows in by_class.sections for row in rows for cell in row[1:4]]
    assert all(text == tables.NOTHING or "†" in text for text in cells)
    assert any("†" in text for text in cells)
    main = tables.main_table(results)
    assert not any("†" in cell.text for _, rows in main.sections for row in rows for cell in row)
    assert by_class.sections[0][0].startswith("Floor"), "the floor at the same n stands above"
    assert "n < 2d" in set(tables.class_summary(results)["flag"])


def test_weights_that_nobody_knows_are_named_beside_their_numbers(tmp_path: Path) -> None:
    doubt = "weights not the official ones (sha256 0123456789abcdef)"
    folder = fixture.write_results(tmp_path / "custom")
    told = json.loads((folder / "reference.json").read_text())
    told["features"]["domain"]["doubt"] = doubt
    (folder / "reference.json").write_text(json.dumps(told))
    found = read_results(folder)
    main = tables.main_table(found)
    distances = [column for column in main.columns if column.title.startswith("FD")]
    assert distances
    assert all(f"domain, {doubt}, vs test" in column.detail for column in distances)
    assert f"Numbers on domain features: {doubt}." in main.notes
    shown = results_table(folder)
    assert shown is not None
    assert f"domain: {doubt}" in str(shown.caption)


@pytest.mark.parametrize("flag", [FEW_TRAINING, FEW_VALIDATION])
def test_a_dagger_stands_beside_memorisation_by_few_real_images(tmp_path: Path, flag: str) -> None:
    folder = fixture.write_results(tmp_path / "few")
    for file in folder.glob("runs/*/evaluation-ab12.json"):
        told = json.loads(file.read_text())
        for score in told["scores"]:
            if score["measure"] in ("memorization", "near_copies"):
                score["flag"] = flag
        file.write_text(json.dumps(told))
    few = read_results(folder)
    main = tables.main_table(few)
    at = next(index for index, column in enumerate(main.columns) if column.title.startswith("C_T"))
    assert main.columns[at].title.endswith("†")
    cells = [row[at].text for _, rows in main.sections for row in rows]
    assert all("†" in text for text in cells if text != tables.NOTHING)
    assert any("†" in text for text in cells)
    assert any(note.startswith("C_T†: of fewer than 51 training or 100 validation images") for note in main.notes)
    further = tables.further_table(few)
    assert further is not None
    assert any("Near copies†" in note for note in further.notes)
    _, rows = tables.terminal_rows(few)
    assert any("†" in cell for row in rows for cell in row)
    assert any(line.startswith("Memorisation with fewer than ") for line in warnings(few))
