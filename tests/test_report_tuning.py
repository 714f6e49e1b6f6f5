"""Tuning in the report: budgets side by side, what was found, the front, the methods, and merging searches of two machines."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.report.figures import looks, style
from bench.report.merge import merge
from bench.report.methods import methods
from bench.report.page import write_report
from bench.report.results import read_results
from bench.report.tables import Table
from bench.report.tuning import draw_tuning, trial_table, tuning_tables, tuning_warnings

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec
assert _spec.loader
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

DISTANCE = {name: fixture.DISTANCE[name] for name in ("floor_validation", "vae", "cvae", "dcgan", "training_copy")}
OPTIONS = {"distance": DISTANCE, "seeds": {}, "endings": {}}
BETA = {"low": 0.1, "high": 10.0, "log": True, "integer": False, "default": 1.0}


def study(row: str, values: list[float], **changes: Any) -> dict[str, Any]:
    """What a search leaves: its second trial pruned, the others finished with these values at beta 1, 2, ..."""
    spec = {
        "trials": len(values) + 1, "objective": ["frechet_distance"], "features": "radiomics", "sampler": "tpe", "seed": 0,
        "pruning": None,
    } | changes  # fmt: skip
    common = {"looks": {"250": 90.0}, "seconds": 2.0, "reason": ""}
    trials: list[dict[str, Any]] = [
        {
            **common,
            "number": 0,
            "state": "finished",
            "parameters": {"beta": 1.0},
            "values": [values[0]],
            "images_seen": 500,
        },
        {**common, "number": 1, "state": "pruned", "parameters": {"beta": 9.0}, "values": [], "images_seen": 250},
    ]
    for number, value in enumerate(values[1:], start=2):
        told = {"number": number, "parameters": {"beta": float(number)}, "values": [value], "images_seen": 500}
        trials.append({**common, "state": "finished", **told})
    best = min((trial for trial in trials if trial["values"]), key=lambda trial: trial["values"][0])
    return {
        "status": "finished", "reason": None, "generator": row, "study": f"{row}-abc", "validation_images": 200,
        "search": {"spec": spec, "images_seen": 500, "space": {"beta": BETA}}, "trials": trials,
        "best": {key: best[key] for key in ("number", "values", "parameters")}, "front": [best["number"]],
        "importances": {"beta": 1.0}, "images_seen": sum(trial["images_seen"] for trial in trials), "seconds": 8.0,
        "optuna": "5.0.0",
    }  # fmt: skip


def tuned(folder: Path, *studies: dict[str, Any], **options: Any) -> Path:
    """A results folder whose plan has these searches."""
    fixture.write_results(folder, **{**OPTIONS, **options})
    searches = []
    for record in studies:
        home = f"tuning/{record['study']}"
        (folder / home).mkdir(parents=True)
        (folder / home / "study.json").write_text(json.dumps(record))
        (folder / home / "trials.csv").write_text("number\n")
        searches.append({"generator": record["generator"], "folder": home})
    change(folder / "plan.json", searches=searches)
    change(folder / "suite.json", tuning={"trials": 4, "images_seen": 500, "workers": 1, "storage": "journal"})
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cells(table: Table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for _, rows in table.sections for row in rows}


def test_budgets_stand_side_by_side(tmp_path: Path) -> None:
    results = read_results(tuned(tmp_path / "a", study("vae", [80.0, 60.0, 70.0]), study("cvae", [50.0, 55.0, 58.0])))
    budgets, values = tuning_tables(results)
    assert cells(budgets) == {
        "vae": ["4 of 4", "500", "1,750", "8 s", "1 pruned", "80", "60", "−25%"],
        "cvae": ["4 of 4", "500", "1,750", "8 s", "1 pruned", "50", "50", "default kept"],
    }
    assert any(note.startswith("Granted to every family alike: 4 trials") for note in budgets.notes)
    assert "Not tuned: dcgan." in budgets.notes
    assert cells(values)["beta"][:2] == ["0.1 to 10 (log)", "1"]
    every = trial_table(results)
    assert every is not None
    assert [len(rows) for _, rows in every.sections] == [4, 4]
    assert not tuning_warnings(results)


def test_unequal_budgets_are_never_called_alike(tmp_path: Path) -> None:
    results = read_results(tuned(tmp_path / "a", study("vae", [80.0, 60.0, 70.0]), study("cvae", [50.0, 55.0])))
    assert not any("alike" in note for note in tuning_tables(results)[0].notes)
    assert "different budgets" in tuning_warnings(results)[0]
    assert "3 to 4 trials per family" in " ".join(methods(results))


@pytest.mark.parametrize("default", [0.0, -0.4])
def test_a_default_of_no_distance_has_no_share(tmp_path: Path, default: float) -> None:
    """An unbiased kernel distance may be 0 or below: what it changed by is no share of that."""
    record = study("vae", [default, -0.5, 3.0], objective=["kernel_distance"])
    results = read_results(tuned(tmp_path / "a", record))
    assert cells(tuning_tables(results)[0])["vae"][-1] == "–"


def test_methods_tell_of_tuning_where_there_was_some(tmp_path: Path) -> None:
    text = " ".join(methods(read_results(tuned(tmp_path / "a", study("vae", [80.0, 60.0, 70.0])))))
    for said in (
        "hyper-parameters of vae were tuned beforehand with Optuna 5.0.0 (TPE sampler, seed 0)",
        "4 trials per family of 500 training images each, the first with the default values",
        "Fréchet distance between generated and 200 validation images (texture features)",
        "cvae and dcgan were not tuned",
        "No test image took part in training, tuning, model choice",
    ):
        assert said in text
    assert "tun" not in " ".join(methods(read_results(fixture.write_results(tmp_path / "b", **OPTIONS))))


def test_two_objectives_draw_their_front(tmp_path: Path) -> None:
    record = study("vae", [80.0, 60.0, 70.0], objective=["frechet_distance", "parameters"])
    for trial in record["trials"]:
        trial["values"] = [*trial["values"], 1000.0 * (trial["number"] + 1)] if trial["values"] else []
    results = read_results(tuned(tmp_path / "a", {**record, "front": [0, 2]}))
    with style():
        pictures = {picture.name: picture for picture in draw_tuning(results)}
    assert set(pictures) == {"tuning", "tuning_front"}
    assert "vae: trials 0, 2" in pictures["tuning_front"].alt
    assert "number of parameters" in pictures["tuning_front"].svg.decode()
    page = write_report(tmp_path / "a").folder / "report.html"
    assert "Pareto front" in page.read_text(encoding="utf-8")


def test_default_rows_wear_their_familys_colour(tmp_path: Path) -> None:
    folder = fixture.write_results(tmp_path / "a", **{**OPTIONS, "distance": {**DISTANCE, "vae_default": 33.0}})
    plan = json.loads((folder / "plan.json").read_text())
    for row in plan["rows"]:
        row["role"] = "default" if row["generator"] == "vae_default" else row["role"]
    (folder / "plan.json").write_text(json.dumps(plan))
    found = looks(read_results(folder))
    assert found["vae_default"][0] == found["vae"][0]
    assert found["vae_default"][1] != found["vae"][1]


# ---- several machines


def machines(tmp_path: Path, second: list[float]) -> tuple[Path, Path]:
    """The first has vae's seed 0, the second its seed 1; both tuned it, the second with these values."""
    folders = []
    for name, values, seed in (("a", [80.0, 60.0, 70.0], 0), ("b", second, 1)):
        folders.append(tuned(tmp_path / name, study("vae", values), seeds={"vae": 2}))
        for run in folders[-1].glob(f"runs/vae-seed{1 - seed}-*"):
            shutil.rmtree(run)
    return folders[0], folders[1]


def test_searches_are_merged_with_their_trainings(tmp_path: Path) -> None:
    merge(machines(tmp_path, [80.0, 60.0, 70.0]), tmp_path / "both")
    results = read_results(tmp_path / "both")
    assert sum(run.finished for run in results.of("vae")) == 2
    assert cells(tuning_tables(results)[0])["vae"][0] == "4 of 4"
    assert (tmp_path / "both" / "tuning" / "vae-abc" / "trials.csv").is_file()


def test_seeds_of_different_values_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vae was tuned apart in .* with different best values"):
        merge(machines(tmp_path, [80.0, 90.0, 50.0]), tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_tuned_and_untuned_suites_are_not_merged(tmp_path: Path) -> None:
    one = tuned(tmp_path / "a", study("vae", [80.0, 60.0, 70.0]))
    two = fixture.write_results(tmp_path / "b", **OPTIONS)
    with pytest.raises(InputError, match=r"suites \(tuning\) differ"):
        merge((one, two), tmp_path / "both")
    change(two / "suite.json", tuning={"trials": 4, "images_seen": 500, "workers": 2, "storage": "sqlite"})
    merge((one, two), tmp_path / "both")  # where trials are stored and how many run at once changes none


def test_a_plan_cannot_lead_a_search_out_of_its_folder(tmp_path: Path) -> None:
    one, two = machines(tmp_path, [80.0, 60.0, 70.0])
    change(one / "plan.json", searches=[{"generator": "vae", "folder": "../elsewhere"}])
    with pytest.raises(InputError, match="outside of the folder"):
        merge((one, two), tmp_path / "both")
