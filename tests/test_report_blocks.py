"""The report's blocks beside the ranking: progress, quoted numbers, recognition, translators, rows made elsewhere."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from bench.report.page import write_report
from bench.report.progress import progress_tables
from bench.report.results import read_results
from bench.report.tables import lines, main_table
from bench.report.translators import translator_tables

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec
assert _spec.loader
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)
write_results = fixture.write_results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with a report, without anything that these blocks show."""
    path = write_results(tmp_path / "example")
    write_report(path)
    return path


def _with(folder: Path, **changes: Any) -> Path:
    """Change records of a results folder: `suite`, `reference` as dicts to be merged, `rows` and `runs` by name."""
    for name in ("suite", "reference"):
        record = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps(record | changes.get(name, {})))
    plan = json.loads((folder / "plan.json").read_text())
    for row in plan["rows"]:
        path = folder / row["run"] / "result.json"
        if row["generator"] in changes.get("results", {}) and path.exists():
            path.write_text(json.dumps(json.loads(path.read_text()) | changes["results"][row["generator"]]))
        row |= changes.get("rows", {}).get(row["generator"], {})
        if row["generator"] in changes.get("progress", {}):
            lines = "\n".join(changes["progress"][row["generator"]])
            (folder / row["run"] / "progress.csv").write_text(f"images_seen,class,features,measure,value,n\n{lines}\n")
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


PROGRESS = {
    "vae": [f"{n},all,domain,frechet_distance,{100 / n},40" for n in (10, 20, 30, 40, 50)],
    "cvae": [f"{n},all,domain,inception_score,{1 + n / 50},40" for n in (10, 30, 50)]
    + [f"{n},all,domain,frechet_distance,{7},40" for n in (10, 30, 50)],
}


def test_progress_has_a_figure_and_tables_with_real_data_first(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "suite", seeds={})
    line = {"points": 5, "n": 40, "real": {"domain/frechet_distance": 0.75, "domain/inception_score": 3.5}}
    write_report(_with(folder, reference={"progress": line}, progress=PROGRESS))
    assert (folder / "figures" / "progress.svg").exists()
    assert "real (training) images" in (folder / "figures" / "progress.svg").read_text()
    distance, score = (part for part in progress_tables(read_results(folder)))
    rows = {str(row[0]): [cell.text for cell in row[1:]] for _, body in distance.sections for row in body}
    assert next(iter(rows)) == "real (training) images"
    assert rows["real (training) images"] == ["0.75"] * 5
    assert rows["vae"] == ["10.00", "5.00", "3.33", "2.50", "2.00"]
    assert rows["cvae"][0] == rows["cvae"][-1] == "7.00"
    assert "higher is better" in score.caption
    assert "against training progress" in (folder / "table.md").read_text()
    assert "Quality against training progress" in (folder / "report.html").read_text()


def test_results_without_progress_have_no_such_figure(folder: Path) -> None:
    assert progress_tables(read_results(folder)) == []
    assert not (folder / "figures" / "progress.svg").exists()


def test_reported_numbers_stand_apart(tmp_path: Path) -> None:
    value = {"system": "their <b>model</b>", "group": "site A", "measure": "FID", "value": "87.19 ± 0.92"}
    quoted = [{"source": "Somebody 2020", "data": "other images", "note": "n is not stated.", "values": [value]}]
    folder = write_results(tmp_path / "suite")
    write_report(_with(folder, suite={"reported": quoted}))
    page, tables = (folder / "report.html").read_text(), (folder / "table.md").read_text()
    assert page.count("not comparable with the rows above") >= 1
    assert "<b>model" not in page
    head, _, block = tables.partition("Reported by the source, other data")
    assert "87.19" not in head
    assert "87.19 ± 0.92" in block
    assert "n is not stated" in block
    for name in ("results.csv", "table.csv"):
        assert "87.19" not in (folder / name).read_text()


def test_recognition_stands_beside_that_of_real_images(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "suite", endings={})
    plan = json.loads((folder / "plan.json").read_text())
    for row in plan["rows"]:
        path = folder / row["run"] / row["evaluation"]
        if row["generator"] == "cvae":
            record = json.loads(path.read_text())
            record["scores"].append(
                {"class": "all", "features": "domain", "measure": "class_accuracy", "mean": 0.5, "std": 0.01}
                | {"draws": 20, "n_real": 40, "n_generated": 40, "lower": None, "upper": None, "flag": "", "values": []}
            )
            path.write_text(json.dumps(record))
    results = read_results(_with(folder, reference={"recognition": {"domain": {"all": 0.93}}}))
    table = main_table(results)
    (at,) = (index for index, column in enumerate(table.columns) if column.title.startswith("Class acc."))
    assert "real test images 0.93" in table.columns[at].detail
    cells = {row[0].text: row[at].text for _, body in table.sections for row in body}
    assert cells["cvae"].startswith("0.50")
    assert cells["vae"] == "–"


def test_a_row_made_elsewhere_has_a_section_of_its_own_and_no_costs(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "suite", endings={})
    told = {"role": "external", "family": "external", "costs": {}, "policy": {}}
    told["external"] = {"images": 1234, "path_name": "theirs", "rule": "read as 8 bits"}
    results = read_results(_with(folder, rows={"wgan_gp": {"role": "external"}}, results={"wgan_gp": told}))
    table = main_table(results)
    sections = {title: [row[0].text for row in body] for title, body in table.sections}
    assert sections["External: images made elsewhere"] == ["wgan_gp"]
    assert list(sections) == [
        "Floor: real against real", "Families", "External: images made elsewhere", "Controls"
    ]  # fmt: skip
    assert any("1,234 images made elsewhere" in note for note in table.notes)


def test_one_model_per_class_is_said_in_the_row(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "suite", endings={})
    policy = {"weights": "last", "unconditional": "per_class", "precision": "bfloat16"}
    write_report(_with(folder, results={"dcgan": {"policy": policy, "preset": "chest"}}))
    assert "dcgan (per class)" in (folder / "table.md").read_text()
    page = (folder / "report.html").read_text()
    assert "bfloat16" in page
    assert "chest" in page


def test_translators_never_stand_among_families(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "suite", endings={})
    results = read_results(_with(folder, rows={"dcgan": {"role": "translator"}}))
    assert "dcgan" not in results.generators
    assert [run.generator for run in results.translators] == ["dcgan"]
    first, *_ = translator_tables(results)
    assert [row[0].text for _, body in first.sections for row in body] == ["not translated", "dcgan"]
    assert all(line.generator != "dcgan" for line in lines(results))
