"""Compare what a benchmark run measured with the committed references; fail where something got worse.

    python tests/benchmarks/compare.py --times FILE.json --results FOLDER

Times: seconds of shared machines mean nothing, so what is compared are ratios of two times of one run: our step against
another package's, a family's training step against a yardstick of plain torch. A ratio may grow by its slack before it counts.

Quality: the smoke suite's scores against `results/reference/smoke/results.csv`, which has several training seeds. Another
processor or number of threads sends training another way, as another seed does, so a score may stray as a further seed
would (prediction interval of Student's t, 99.9 %) and by a share of its size beyond that. Floors and controls that are not
trained hardly stray at all. Only the bad direction counts; for floors both do, since no change makes real images better. All
families together are compared as well, since they stray less than each alone.

`--update` writes the references anew, from a run of several seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from bench.metrics.comparison import student_quantile
from bench.metrics.records import MEASURES

ROOT = Path(__file__).resolve().parents[2]
TIMES = Path(__file__).with_name("reference.json")
QUALITY = ROOT / "results" / "reference" / "smoke" / "results.csv"

AGAINST = {
    "Fréchet step": ("test_frechet_step", "test_frechet_step_of_others[of_torch_fidelity]", "torch-fidelity's"),
    "Fréchet step, real side kept": (
        "test_frechet_step_with_the_real_side_kept", "test_frechet_step_of_others[of_torch_fidelity]", "torch-fidelity's",
    ),
}  # fmt: skip
"""What is timed, against what, and whose that is."""
STEP_SLACK, TRAINING_SLACK = 2.0, 2.5
"""How many times its reference a ratio may be. In processor seconds steps strayed by 4 % on a machine ten times overloaded;
layers of different kinds gain differently from another processor."""
COMPARED = ("frechet_distance", "kernel_distance", "precision", "recall", "coverage", "class_accuracy")
CONFIDENCE = 0.999
SLACK = {"trained": 0.25, "domain": 0.25, "together": 0.1, "": 0.02}
"""Share of a score's size that it may stray by: of what was trained; of fitted features; of all families; of the rest."""
ABSOLUTE = 0.03
"""Of shares (precision and the like), which have few steps at so few images."""


class Row(NamedTuple):
    """A score by its name."""

    generator: str
    features: str
    measure: str


class Finding(NamedTuple):
    """One thing compared."""

    what: str
    found: float
    least: float
    most: float
    reference: str

    @property
    def worse(self) -> bool:
        """Whether it lies beyond what is expected; a number that is none is worse than any."""
        return not self.least <= self.found <= self.most

    def __str__(self) -> str:
        bounds = f"at most {self.most:.4g}" if self.least == -math.inf else f"at least {self.least:.4g}"
        if math.isfinite(self.least) and math.isfinite(self.most):
            bounds = f"{self.least:.4g} to {self.most:.4g}"
        return f"{self.what}: {self.found:.4g}, expected {bounds} (reference {self.reference})"


# ---- times


def step_ratios(record: dict[str, object]) -> dict[str, float]:
    """Ratios out of pytest-benchmark's JSON, by what is timed."""
    fastest = {entry["name"]: float(entry["stats"]["min"]) for entry in record["benchmarks"]}  # type: ignore[index, attr-defined]
    found = {}
    for what, (ours, theirs, _) in AGAINST.items():
        if ours in fastest and theirs in fastest:
            found[what] = fastest[ours] / fastest[theirs]
    return found


def training_ratios(record: dict[str, object]) -> dict[str, float]:
    """Each family's training step against the yardstick, by its name."""
    fastest = {entry["name"]: float(entry["stats"]["min"]) for entry in record["benchmarks"]}  # type: ignore[index, attr-defined]
    steps = {
        name.partition("[")[2][:-1]: value for name, value in fastest.items() if name.startswith("test_training_step[")
    }
    return (
        {name: value / fastest["test_yardstick"] for name, value in steps.items()}
        if "test_yardstick" in fastest
        else {}
    )


def compare_times(
    steps: dict[str, float], trainings: dict[str, float], reference: dict[str, dict[str, float]]
) -> list[Finding]:
    """Every ratio of the reference; one that is missing is worse."""
    found = []
    for what, known in reference["steps"].items():
        told = f"time of the {what}, as a share of {AGAINST[what][2] if what in AGAINST else 'the other'}"
        found.append(Finding(told, steps.get(what, math.nan), -math.inf, known * STEP_SLACK, f"{known:.4g}"))
    for name, known in reference["trainings"].items():
        told = f"training step of {name}, in steps of the yardstick"
        found.append(Finding(told, trainings.get(name, math.nan), -math.inf, known * TRAINING_SLACK, f"{known:.4g}"))
    return found


# ---- quality


def table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a results.csv over all classes."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from (row for row in csv.DictReader(file) if row["class"] == "all")


def scores(path: Path) -> tuple[dict[Row, list[float]], dict[str, str], set[str]]:
    """Every compared score by seed, each row's role, and the rows with a run that did not finish."""
    found: dict[Row, list[float]] = {}
    roles: dict[str, str] = {}
    unfinished = set()
    for row in table(path):
        roles[row["generator"]] = row["role"]
        if row["status"] != "finished":
            unfinished.add(row["generator"])
        elif row["measure"] in COMPARED:
            value = float(row["mean"]) if row["mean"] else math.nan
            found.setdefault(Row(row["generator"], row["features"], row["measure"]), []).append(value)
    return found, roles, unfinished


def compare_quality(results: Path, reference: Path) -> list[Finding]:
    """Every score of the reference, against its prediction interval."""
    known, roles, _ = scores(reference)
    found, _, unfinished = scores(results)
    compared = [Finding(f"runs of {name} that did not finish", 1, 0, 0, "0") for name in sorted(unfinished)]
    for row, values in known.items():
        mean, spread = fmean(values), stdev(values) if len(values) > 1 else 0.0
        role, better = roles[row.generator], MEASURES[row.measure].better
        share = SLACK["trained"] if role == "family" else SLACK["domain"] if row.features == "domain" else SLACK[""]
        reach = share * abs(mean)
        if MEASURES[row.measure].high == 1.0:
            reach += ABSOLUTE
        if row.measure == "kernel_distance":  # it is 0 where the two are the same, and then a share of it is nothing
            reach += share * 0.05
        if spread:
            freedom = len(values) - 1
            reach += student_quantile(CONFIDENCE, freedom) * spread * math.sqrt(1 + 1 / len(values))
        least = -math.inf if better == "lower" and role != "floor" else mean - reach
        most = math.inf if better == "higher" and role != "floor" else mean + reach
        values_found = found.get(row, [math.nan])
        low, high = MEASURES[row.measure].low, MEASURES[row.measure].high
        if least <= low and most >= high and all(map(math.isfinite, values_found)):
            continue  # whatever it may be lies within: nothing is compared, and so nothing counted
        title = f"{MEASURES[row.measure].title} of {row.generator} ({row.features or 'images'})"
        told = f"{mean:.4g} ± {spread:.2g} over {len(values)} seeds" if len(values) > 1 else f"{mean:.4g}"
        compared.append(Finding(title, fmean(values_found), least, most, told))
    return [*compared, *compare_together(known, found, roles)]


def compare_together(
    known: dict[Row, list[float]], found: dict[Row, list[float]], roles: dict[str, str]
) -> list[Finding]:
    """The distances of all families as one: what makes every family a little worse shows here long before in any of them.

    The geometric mean of their ratios to the reference; families stray apart from each other, so that it strays less, and
    all seeds of all families together tell how much (a common variance of logarithms, their degrees of freedom added).
    """
    compared = []
    for features in dict.fromkeys(row.features for row in known if row.measure == "frechet_distance"):
        rows = [r for r in known if r[1:] == (features, "frechet_distance") and roles[r.generator] == "family"]
        logs = [logarithms(known[row]) for row in rows if len(known[row]) > 1]
        if len(rows) < 2 or len(logs) < len(rows):
            continue
        freedom = sum(len(values) - 1 for values in logs)
        variance = sum((value - fmean(values)) ** 2 for values in logs for value in values) / freedom
        drawn = [logarithms(found.get(row, [math.nan])) for row in rows]
        error = sum(variance * (1 / len(seen) + 1 / len(values)) for seen, values in zip(drawn, logs, strict=True))
        reach = student_quantile(CONFIDENCE, freedom) * math.sqrt(error) / len(rows)
        ratio = math.exp(fmean(fmean(seen) - fmean(own) for seen, own in zip(drawn, logs, strict=True)))
        slack = 1 + SLACK["domain" if features == "domain" else "together"]
        title = f"Fréchet distance of all families together ({features}), as a share of the reference"
        compared.append(Finding(title, ratio, -math.inf, math.exp(reach) * slack, "1"))
    return compared


def logarithms(values: list[float]) -> list[float]:
    """Of distances; what is no number stays none."""
    return [math.log(max(value, 1e-12)) if math.isfinite(value) else math.nan for value in values]


# ---- the command


def update(steps: dict[str, float], trainings: dict[str, float], results: Path) -> None:
    """Write both references from one run."""
    content = {"steps": steps, "trainings": trainings}
    rounded = {
        part: {name: float(f"{value:.4g}") for name, value in values.items()} for part, values in content.items()
    }
    TIMES.write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    QUALITY.parent.mkdir(parents=True, exist_ok=True)
    with results.open(newline="", encoding="utf-8") as file, QUALITY.open("w", newline="", encoding="utf-8") as kept:
        rows = csv.DictReader(file)
        writer = csv.DictWriter(kept, rows.fieldnames or (), lineterminator="\n")
        writer.writeheader()
        # of families several seeds; one is enough of rows that are not trained, and their others may be pending
        writer.writerows(row for row in rows if row["status"] == "finished" and row["class"] == "all")


def main(arguments: list[str] | None = None) -> int:
    """Compare and print; 1 where something got worse."""
    parser = argparse.ArgumentParser(description="Compare a benchmark run with the committed references.")
    parser.add_argument("--times", type=Path, required=True, help="what pytest --benchmark-json wrote")
    parser.add_argument("--results", type=Path, required=True, help="results folder of suites/smoke.yaml")
    parser.add_argument(
        "--update", action="store_true", help="write the references from this run in place of comparing"
    )
    given = parser.parse_args(arguments)
    record, results = json.loads(given.times.read_text(encoding="utf-8")), given.results / "results.csv"
    steps, trainings = step_ratios(record), training_ratios(record)
    if given.update:
        update(steps, trainings, results)
        return 0
    findings = compare_times(steps, trainings, json.loads(TIMES.read_text(encoding="utf-8")))
    findings += compare_quality(results, QUALITY)
    worse = [finding for finding in findings if finding.worse]
    for finding in worse:
        sys.stdout.write(f"WORSE  {finding}\n")
    sys.stdout.write(f"{len(findings)} figures compared with the references, {len(worse)} got worse\n")
    if worse:
        sys.stdout.write(
            "If that is meant: run the smoke suite with five seeds, then compare.py with --update, and say why.\n"
        )
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
