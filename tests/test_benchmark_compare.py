"""The comparison with committed references: passes on what strays by chance, fails on what got worse, and says what."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

_file = Path(__file__).parent / "benchmarks" / "compare.py"
_spec = importlib.util.spec_from_file_location("benchmark_compare", _file)
assert _spec
assert _spec.loader
compare = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compare)

HEADS = ("generator", "role", "seed", "class", "features", "measure", "mean", "status")
OURS, KEPT, THEIRS = "test_frechet_step", "test_frechet_step_with_the_real_side_kept", (
    "test_frechet_step_of_others[of_torch_fidelity]"
)  # fmt: skip


def results(folder: Path, seeds: int = 5, **changes: float) -> Path:
    """A results.csv of two families, a control and a floor; `vae_domain=3` multiplies the vae's distance."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADS)
        for name, role, level in (("floor_validation", "floor", 1.0), ("gaussian", "control", 9.0), ("vae", "family", 30.0),
                                  ("dcgan", "family", 20.0)):  # fmt: skip
            for seed in range(1 if role == "floor" else seeds):
                strays = 1 + 0.02 * (seed - 2) * (role == "family")
                for features in ("domain", "random"):
                    factor = changes.get(f"{name}_{features}", 1.0)
                    head = (name, role, seed, "all", features)
                    writer.writerow((*head, "frechet_distance", level * strays * factor, "finished"))
                precision = changes.get(f"{name}_precision", 0.5)
                writer.writerow((name, role, seed, "all", "domain", "precision", precision, "finished"))
    return folder


def times(path: Path, ours: float = 0.01, theirs: float = 2.0, dcgan: float = 0.3) -> Path:
    entries = [
        {"name": name, "stats": {"min": value}} for name, value in ((OURS, ours), (KEPT, ours), (THEIRS, theirs))
    ]
    entries += [{"name": "test_yardstick", "stats": {"min": 0.1}}]
    entries += [
        {"name": f"test_training_step[{name}]", "stats": {"min": value}}
        for name, value in (("vae", 0.2), ("dcgan", dcgan))
    ]
    path.write_text(json.dumps({"benchmarks": entries}))
    return path


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """References written by the command itself, in a folder of the test."""
    monkeypatch.setattr(compare, "TIMES", tmp_path / "reference.json")
    monkeypatch.setattr(compare, "QUALITY", tmp_path / "smoke" / "results.csv")
    given = ["--times", str(times(tmp_path / "t.json")), "--results", str(results(tmp_path / "first")), "--update"]
    assert compare.main(given) == 0
    return tmp_path


def ran(root: Path, capsys: pytest.CaptureFixture[str], *, ours: float = 0.01, **changes: float) -> tuple[int, str]:
    dcgan = changes.pop("dcgan_step", 0.3)
    one = results(root / "now", seeds=1, **changes)
    code = compare.main(["--times", str(times(root / "now.json", ours=ours, dcgan=dcgan)), "--results", str(one)])
    return code, capsys.readouterr().out


def test_a_run_of_one_seed_on_a_slower_machine_passes(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ran(reference, capsys, dcgan_step=0.6, ours=0.015, vae_domain=1.1, gaussian_domain=0.5)
    assert code == 0, said
    assert "0 got worse" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"ours": 0.2},
            "WORSE  time of the Fréchet step, as a share of torch-fidelity's: 0.1, expected at most 0.01",
        ),
        (
            {"dcgan_step": 0.9},
            "WORSE  training step of dcgan, in steps of the yardstick: 9, expected at most 7.5 (reference 3)",
        ),
        ({"vae_domain": 3.0}, "WORSE  Fréchet distance of vae (domain): 86.4, expected at most"),
        (
            {"vae_random": 1.4, "dcgan_random": 1.4},
            "WORSE  Fréchet distance of all families together (random), as a share of the reference: 1.345",
        ),
        ({"vae_precision": 0.1}, "WORSE  precision of vae (domain): 0.1, expected at least"),
        ({"gaussian_random": 1.05}, "WORSE  Fréchet distance of gaussian (random)"),
        (
            {"floor_validation_random": 0.9},
            "WORSE  Fréchet distance of floor_validation (random): 0.9, expected 0.98 to 1.02",
        ),
    ],
)
def test_what_got_worse_is_named(
    reference: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    code, output = ran(reference, capsys, **changes)
    assert code == 1
    assert said in output


def test_what_is_missing_or_failed_is_worse(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = results(reference / "now", seeds=1)
    text = (now / "results.csv").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("vae")]
    (now / "results.csv").write_text("\n".join([*kept, "vae,family,0,all,,,,diverged"]) + "\n")
    assert compare.main(["--times", str(times(reference / "now.json")), "--results", str(now)]) == 1
    said = capsys.readouterr().out
    assert "runs of vae that did not finish" in said
    assert "Fréchet distance of vae (random): nan" in said
    assert "families together (random), as a share of the reference: nan" in said


def test_what_cannot_fail_is_not_counted(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A precision of 0 can't get worse: it is compared with nothing, unless it is missing."""
    first = results(reference / "first", vae_precision=0.0)
    assert compare.main(["--times", str(times(reference / "t.json")), "--results", str(first), "--update"]) == 0
    findings = compare.compare_quality(first / "results.csv", reference / "smoke" / "results.csv")
    titles = [finding.what for finding in findings]
    assert "precision of dcgan (domain)" in titles
    assert "precision of vae (domain)" not in titles
    kept = [line for line in (first / "results.csv").read_text().splitlines() if "vae" not in line]
    (first / "results.csv").write_text("\n".join(kept) + "\n")
    findings = compare.compare_quality(first / "results.csv", reference / "smoke" / "results.csv")
    assert any(finding.what == "precision of vae (domain)" and finding.worse for finding in findings)


def test_the_committed_references_are_what_is_compared() -> None:
    known = json.loads(compare.TIMES.read_text(encoding="utf-8"))
    assert set(known["steps"]) == set(compare.AGAINST)
    rows, roles, unfinished = compare.scores(compare.QUALITY)
    assert unfinished == set()
    assert set(known["trainings"]) > {name for name, role in roles.items() if role == "family"}
    assert {row.measure for row in rows} <= set(compare.COMPARED)
    assert all(len(values) >= 5 for row, values in rows.items() if roles[row.generator] == "family")
