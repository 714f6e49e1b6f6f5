"""Two results side by side, and runs of several machines in one report: what is joined, what is named, what is refused."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import InputError
from bench.report.beside import beside, differences, tables, to_file
from bench.report.merge import MARK, merge
from bench.report.page import write_report
from bench.report.results import Key, read_results
from bench.report.verdict import conclusion

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec
assert _spec.loader
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

FIRST = Key("all", "domain", "frechet_distance")


def edit(path: Path, change: Any) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The same suite twice; in the second, cvae's distance is 5 higher and torch is newer."""
    one = fixture.write_results(tmp_path / "one", seeds={})
    two = fixture.write_results(tmp_path / "two", seeds={}, distance={**fixture.DISTANCE, "cvae": 19.0})
    for file in two.glob("runs/*/result.json"):
        edit(file, lambda record: record["environment"].update(torch="2.15.0"))
    return one, two


# ---- compare


def test_differences_have_intervals_and_what_differs_is_named(pair: tuple[Path, Path]) -> None:
    found = beside(*pair)
    numbers = {p.generator: p for p in found.pairs if p.key == FIRST}
    assert numbers["cvae"].difference == pytest.approx(5)
    assert numbers["cvae"].apart
    assert numbers["cvae"].lower is not None
    assert numbers["cvae"].lower < 5 < numbers["cvae"].upper  # type: ignore[operator]
    assert numbers["vae"].difference == pytest.approx(0)
    assert not numbers["vae"].apart
    assert ("torch", "2.13.0", "2.15.0") in found.differs
    assert not any(term in ("data", "split", "draws") for term, _, _ in found.differs)
    text = to_file(found, ".md").decode()
    assert "+5.0" in text
    assert "2.15.0" in text
    assert differences(found) is not None
    costs = tables(found)[-1]
    assert costs.caption.endswith("costs")
    assert str(costs.columns[-1]) == "Ratio (two / one)"
    assert {row[1].text for _, rows in costs.sections for row in rows} >= {"training time ↓", "peak memory in MiB ↓"}


def test_the_file_has_every_number_in_full(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", *map(str, pair), "--out", str(tmp_path / "c.csv")])
    assert done.exit_code == 0, done.output
    assert "one and two side by side" in done.output
    rows = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text())))
    row = next(
        r for r in rows if r["generator"] == "cvae" and tuple(r[k] for k in ("class", "features", "measure")) == FIRST
    )
    assert float(row["second"]) - float(row["first"]) == pytest.approx(float(row["difference"]))
    assert row["apart"] == "True"
    assert {r["class"] for r in rows} == {"all", *fixture.CLASSES[:-1]}


@pytest.mark.parametrize(("part", "key"), [("data", "fingerprint"), ("split", "hash")])
def test_other_data_or_split_are_refused(pair: tuple[Path, Path], part: str, key: str) -> None:
    edit(pair[1] / "reference.json", lambda record: record[part].update({key: "ffff"}))
    with pytest.raises(InputError, match=f"not comparable: the {part} differ.*ffff") as error:
        beside(*pair)
    assert "\n" not in str(error.value)


def test_other_n_and_other_features_have_no_difference(pair: tuple[Path, Path]) -> None:
    def more(record: dict[str, Any]) -> None:
        for score in record["scores"]:
            score["n_generated"] = 500 if score["class"] == "all" else score["n_generated"]

    for file in pair[1].glob("runs/vae-*/evaluation-ab12.json"):
        edit(file, more)
    numbers = {p.generator: p for p in beside(*pair).pairs if p.key == FIRST}
    assert math.isnan(numbers["vae"].difference)
    assert numbers["vae"].note == "n = 280 against 500"
    assert not math.isnan(numbers["cvae"].difference)
    edit(pair[1] / "reference.json", lambda record: record["features"]["domain"].update(backend="other"))
    found = beside(*pair)
    assert any("Features domain are not the same network" in warning for warning in found.warnings)
    assert all(p.note == "other features" for p in found.pairs if p.key.features == "domain")
    assert any(not p.note for p in found.pairs if p.key.features == "")


def test_a_table_alone_is_compared_with_a_warning(pair: tuple[Path, Path], tmp_path: Path) -> None:
    write_report(pair[1])
    (tmp_path / "kept").mkdir()
    shutil.copy(pair[1] / "results.csv", tmp_path / "kept")
    found = beside(pair[0], tmp_path / "kept")
    assert "can't be checked" in found.warnings[0]
    number = next(p for p in found.pairs if p.key == FIRST and p.generator == "cvae")
    assert number.difference == pytest.approx(5)
    assert number.apart  # the intervals of both, as if independent
    with pytest.raises(InputError, match="neither plan"):
        beside(pair[0], tmp_path)


# ---- merge


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Path, Path]:
    """A suite of three seeds: the first machine has two of them and not dcgan, the second has the third and dcgan."""
    distance = {**fixture.DISTANCE, "dcgan": 30.0}
    del distance["wgan_gp"]
    whole = {"seeds": {"vae": 3, "cvae": 3, "dcgan": 3}, "endings": {}, "distance": distance}
    first, second = (fixture.write_results(tmp_path / name, **whole) for name in ("a", "b"))
    for folder, gone in (
        (first, ("vae-seed2", "cvae-seed2", "dcgan")),
        (second, ("vae-seed0", "vae-seed1", "cvae-seed0")),
    ):
        for run in [run for run in folder.glob("runs/*") if run.name.startswith(gone)]:
            shutil.rmtree(run)
        edit(folder / "suite.json", lambda record: record.update(seeds=[0, 1, 2]))
    return first, second


def test_rows_and_seeds_are_united(machines: tuple[Path, Path], tmp_path: Path) -> None:
    assert "pending" in conclusion(read_results(machines[0]))
    done = CliRunner().invoke(app, ["report", *map(str, machines), "--out", str(tmp_path / "both")])
    assert done.exit_code == 0, done.output
    results = read_results(tmp_path / "both")
    assert {name: sum(run.finished for run in results.of(name)) for name in ("vae", "cvae", "dcgan")} == {
        "vae": 3, "cvae": 3, "dcgan": 3,
    }  # fmt: skip
    assert "cvae has the lowest" in conclusion(results)
    assert len(results.runs) == 14
    assert (tmp_path / "both" / "figures" / "samples_dcgan.png").is_file()
    assert not list(tmp_path.glob("*.part"))
    again = CliRunner().invoke(app, ["report", *map(str, machines), "--out", str(tmp_path / "both")])
    assert again.exit_code == 0, again.output


def test_conflicts_are_named_and_the_first_is_kept(pair: tuple[Path, Path], tmp_path: Path) -> None:
    conflicts = merge(pair, tmp_path / "both")
    assert len(conflicts) == 1
    assert conflicts[0].startswith(f"cvae seed 0: {pair[0]} and {pair[1]} have different numbers")
    assert read_results(tmp_path / "both").of("cvae")[0].scores[FIRST].mean == pytest.approx(14.0)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("reference", lambda r: r["data"].update(fingerprint="ffff"), "data differ (ffff against 0011223344556677)"),
        ("reference", lambda r: r["split"].update(hash="ffff"), "splits differ"),
        ("reference", lambda r: r["protocol"].update(draws=5), "protocols (draws) differ (5 against 20)"),
        ("reference", lambda r: r["features"]["domain"].update(backend="x"), "features domain differ"),
        ("suite", lambda r: r.update(budget={"images_seen": 1}), "suites (budget) differ"),
        (
            "suite",
            lambda r: r.update(generators=[{"name": "vae", "hyperparameters": {"beta": 2}}]),
            "settings of vae differ",
        ),
    ],
)
def test_what_would_mix_different_things_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, file: str, change: Any, said: str
) -> None:
    edit(pair[0] / "suite.json", lambda r: r.update(generators=[{"name": "vae", "hyperparameters": {"beta": 1}}]))
    edit(pair[1] / "suite.json", lambda r: r.update(generators=[{"name": "vae", "hyperparameters": {"beta": 1}}]))
    edit(pair[1] / f"{file}.json", change)
    with pytest.raises(InputError) as error:
        merge(pair, tmp_path / "both")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "both").exists()


def test_nothing_of_somebody_else_is_overwritten(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="holds something else"):
        merge(pair, tmp_path / "mine")
    with pytest.raises(InputError, match="one of the folders"):
        (pair[0] / MARK).write_text("{}")
        merge(pair, pair[0])
    done = CliRunner().invoke(app, ["report", str(pair[0]), "--out", str(tmp_path / "x")])
    assert isinstance(done.exception, InputError)


def test_patient_images_stay_hidden_if_one_machine_hides_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    edit(pair[1] / "suite.json", lambda record: record.update(patient_images=False))
    for run in pair[0].glob("runs/cvae-*"):
        (run / "closest.npz").write_bytes(b"x")
    merge(pair, tmp_path / "both")
    assert not read_results(tmp_path / "both").patient_images
    assert not list((tmp_path / "both").rglob("closest.npz"))
    assert not (tmp_path / "both" / "real.npz").exists()
