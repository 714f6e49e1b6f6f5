"""Runs of several machines united into one results folder: the same suite, data, split and protocol, all rows and seeds.

Only what a report reads is copied; the trained models stay where they are. What two folders have both is taken from the
first that finished it, and named where they disagree.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import InputError
from bench.store import read_json, write_bytes, write_json

MARK = "merged.json"
"""A folder with it was made here, and may be made anew."""
COPIED = ("result.json", "samples.npz", "closest.npz", "interpolations.npz", "losses.csv", "progress.csv")
COPIED_OF_SEARCH = ("study.json", "trials.csv")
SAME_SUITE = ("name", "data", "split", "budget", "sampling", "evaluation", "progress", "for_results")
TUNING_APART = ("workers", "storage", "compare_default")
"""What of a search may differ between machines: it changes no trial."""
SAME_PROTOCOL = ("draws", "n_all", "n_class", "samples_per_draw", "replicates", "measures")


def merge(folders: Sequence[Path], out: Path) -> list[str]:
    """Write the united results into `out`, whole or not at all; return what the folders disagree in, a line each.

    Raises:
        InputError: a folder can't be read, they are of different data, split, suite or protocol, or `out` holds something
            else.
    """
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and holds something else; choose another --out")
    if any(out.resolve() == folder.resolve() for folder in folders):
        raise InputError(f"{out}: is one of the folders to be merged; choose another --out")
    parts = [_read(folder) for folder in folders]
    for folder, part in zip(folders[1:], parts[1:], strict=True):
        _check(folders[0], parts[0], folder, part)
    rows, conflicts = _unite(folders, parts)
    building = out.with_name(out.name + ".part")
    shutil.rmtree(building, ignore_errors=True)
    try:
        _write(folders, parts, rows, building)
        if out.exists():
            shutil.rmtree(out)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return conflicts


def _read(folder: Path) -> dict[str, Any]:
    found = {name: read_json(folder / f"{name}.json") for name in ("plan", "reference", "suite")}
    for name, record in found.items():
        if record is None:
            raise InputError(f"{folder}: no results that can be merged: {name}.json is absent or damaged")
    return found


def _check(first: Path, one: Mapping[str, Any], second: Path, two: Mapping[str, Any]) -> None:
    """Refuse what would mix different things, in one line that names the first that differs."""

    def same(what: str, mine: Any, theirs: Any, remedy: str = "") -> None:
        if mine != theirs:
            raise InputError(
                f"{second} can't be merged with {first}: {what} differ ({_brief(theirs)} against {_brief(mine)}){remedy}"
            )

    a, b = one["reference"], two["reference"]
    same("data", a["data"]["fingerprint"], b["data"]["fingerprint"])
    same("splits", a["split"]["hash"], b["split"]["hash"])
    for key in SAME_PROTOCOL:
        same(f"protocols ({key})", a["protocol"].get(key), b["protocol"].get(key))
    for key in SAME_SUITE:
        same(f"suites ({key})", one["suite"].get(key), two["suite"].get(key))
    same("suites (tuning)", *(_tuning(side["suite"]) for side in (one, two)))
    for name in {**a["features"], **b["features"]}:
        mine, theirs = (
            [str((side["features"].get(name) or {}).get(key)) for key in ("status", "version", "backend", "rule")]
            for side in (a, b)
        )
        fitted = "; features that were fitted on each machine can't be mixed: copy the first's reference and run again"
        same(f"features {name}", mine, theirs, fitted if mine[1] == theirs[1] else "")
    mine_, theirs_ = (
        {entry.get("label") or entry.get("name"): entry for entry in side["suite"].get("generators") or ()}
        for side in (one, two)
    )
    for name in mine_.keys() & theirs_.keys():
        same(f"settings of {name}", mine_[name], theirs_[name])


def _tuning(suite: Mapping[str, Any]) -> Any:
    return {key: value for key, value in (suite.get("tuning") or {}).items() if key not in TUNING_APART} or None


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unite(
    folders: Sequence[Path], parts: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """Choose a folder for each row and seed; floors of the first folder."""
    chosen: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    conflicts = []
    for folder, part in zip(folders, parts, strict=True):
        for row in part["plan"]["rows"]:
            key = (str(row["generator"]), int(row["seed"]))
            if key not in chosen:
                chosen[key] = folder, row
                continue
            held_folder, held = chosen[key]
            mine, theirs = _ended(held_folder, held), _ended(folder, row)
            if theirs is not None and mine is None:
                chosen[key] = folder, row
            elif mine is not None and theirs is not None and mine != theirs:
                name = key[0] if row["role"] == "floor" else f"{key[0]} seed {key[1]}"
                conflicts.append(
                    f"{name}: {held_folder} and {folder} have different numbers; those of {held_folder} are kept"
                )
    order = list(dict.fromkeys(name for name, _ in chosen))
    rows = sorted(chosen.values(), key=lambda found: (order.index(str(found[1]["generator"])), int(found[1]["seed"])))
    return rows, conflicts


def _ended(folder: Path, row: Mapping[str, Any]) -> Any:
    """The scores of a row that finished; None of any other."""
    run = _inside(folder, row)
    result, evaluation = read_json(run / "result.json"), read_json(run / str(row["evaluation"]))
    if evaluation is None or evaluation.get("status", "finished") != "finished":
        return None
    if result is not None and result.get("status") != "finished":
        return None
    return evaluation.get("scores")


def _inside(folder: Path, row: Mapping[str, Any]) -> Path:
    run = folder / str(row["run"])
    if not run.resolve().is_relative_to(folder.resolve()) or Path(str(row["evaluation"])).name != row["evaluation"]:
        raise InputError(f"{folder}: plan.json names a run outside of the folder: {row['run']}")
    return run


def _write(
    folders: Sequence[Path], parts: Sequence[Mapping[str, Any]], rows: Sequence[tuple[Path, dict[str, Any]]], out: Path
) -> None:
    stamps = [part["plan"].get("stamp") for part in parts if part["plan"].get("stamp")]
    suites = [part["suite"] for part in parts]
    suite = {
        **suites[0],
        "seeds": sorted({seed for each in suites for seed in each.get("seeds") or ()}),
        "generators": list(
            {(e.get("label") or e.get("name")): e for each in suites for e in each.get("generators") or ()}.values()
        ),
        "patient_images": all(each.get("patient_images", True) for each in suites),
    }
    searches = _searches(folders, parts, rows)
    records = []
    for folder, row in rows:
        run = _inside(folder, row)
        target = out / "runs" / run.name
        for name in (*COPIED, str(row["evaluation"])):
            if (run / name).is_file() and (suite["patient_images"] or name != "closest.npz"):
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run / name, target / name)
        records.append({**row, "run": f"runs/{run.name}"})
    told = [search for _, search in searches]
    for folder, search in searches:
        kept, target = folder / search["folder"], out / search["folder"]
        for name in COPIED_OF_SEARCH:
            if (kept / name).is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(kept / name, target / name)
    plan = {**parts[0]["plan"], "stamp": stamps[0] if stamps else None, "rows": records, "searches": told}
    write_json(out / "plan.json", plan)
    write_json(out / "reference.json", parts[0]["reference"])
    write_json(out / "suite.json", suite)
    write_bytes(out / "suite.yaml", _yaml(suite))
    if suite["patient_images"] and (folders[0] / "real.npz").is_file():
        shutil.copyfile(folders[0] / "real.npz", out / "real.npz")
    write_json(out / MARK, {"schema": 1, "folders": [folder.name for folder in folders]})


def _searches(
    folders: Sequence[Path], parts: Sequence[Mapping[str, Any]], rows: Sequence[tuple[Path, dict[str, Any]]]
) -> list[tuple[Path, dict[str, Any]]]:
    """Every search, from the folder whose trainings are taken; what was found apart must not be mixed.

    Raises:
        InputError: trainings of one row come from searches that found different values.
    """
    known = {
        (folder, search["generator"]): search
        for folder, part in zip(folders, parts, strict=True)
        for search in part["plan"].get("searches") or ()
    }
    found = []
    for name in dict.fromkeys(name for _, name in known):
        held: tuple[Path, Any] | None = None
        for folder in [folder for folder, row in rows if row["generator"] == name and _ended(folder, row) is not None]:
            if (folder, name) not in known:
                continue
            best = (read_json(_search(folder, known[folder, name]) / "study.json") or {}).get("best")
            values = best["parameters"] if best else None
            if held is not None and values != held[1]:
                raise InputError(
                    f"{name} was tuned apart in {held[0]} and {folder}, with different best values: its seeds can't be mixed; "
                    "run all seeds of it on one machine, or search together through a database (tuning.storage)"
                )
            held = held or (folder, values)
        source = held[0] if held else next(folder for folder, other in known if other == name)
        _search(source, known[source, name])
        found.append((source, known[source, name]))
    return found


def _search(folder: Path, search: Mapping[str, Any]) -> Path:
    path = folder / str(search["folder"])
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: plan.json names a search outside of the folder: {search['folder']}")
    return path


def _yaml(content: dict[str, Any]) -> bytes:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(content, stream)
    return stream.getvalue().encode()
