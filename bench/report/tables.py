"""Scores into tables: combine training seeds, order the rows, lay out the columns.

A table is built once, as plain cells, and rendered later (`bench.report.render`, and the page's template);
`summary_table` is the same content in full precision. Nothing here draws, and nothing here says who won
(`bench.report.page` does, where allowed).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median

import pandas as pd

from bench.metrics.comparison import over_trainings
from bench.metrics.records import FEW_TRAINING, FEW_VALIDATION, GROUPS, MEASURES
from bench.metrics.statistics import mean_std
from bench.report.results import ALL, COST_ORDER, Key, Results, Run

COPYING = -3.0
"""C_T is a z-score, negative where generated images lie nearer to training images than validation images do."""
DISTANCES = ("frechet_distance", "kernel_distance")
LEADING = ("precision", "recall", "coverage", "class_accuracy", "memorization")
SHORT = {
    "frechet_distance": "FD",
    "frechet_distance_infinity": "FD∞",
    "kernel_distance": "KD",
    "gaussian_kernel_distance": "Gaussian KD",
    "inception_score": "IS",
    "inception_score_parts": "IS of parts",
    "inception_score_parts_std": "IS std of parts",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "memorization": "C_T",
    "near_copies": "Near copies",
    "class_accuracy": "Class acc.",
    "ssim_diversity": "SSIM of pairs",
    "ms_ssim_diversity": "MS-SSIM of pairs",
    "intensity_kl": "KL of intensities",
    "intensity_js": "JS of intensities",
    "psnr_reconstruction": "PSNR rec.",
    "nmse_reconstruction": "NMSE rec.",
    "lpips_reconstruction": "LPIPS rec.",
    "ssim_reconstruction": "SSIM rec.",
    "mse_reconstruction": "MSE rec.",
}
AGAINST = {
    "class_accuracy": "recognised",
    "inception_score": "",
    "inception_score_parts": "",
    "inception_score_parts_std": "",
    "ssim_diversity": "",
    "ms_ssim_diversity": "",
    "psnr_reconstruction": "of test",
    "nmse_reconstruction": "of test",
    "lpips_reconstruction": "of test",
    "memorization": "vs training",
    "near_copies": "vs training",
    "ssim_reconstruction": "of test",
    "mse_reconstruction": "of test",
}
BESIDE_REAL = (
    "inception_score", "inception_score_parts", "inception_score_parts_std", "ssim_diversity", "ms_ssim_diversity",
)  # fmt: skip
"""Measures that mean something beside the real data's own number only."""
ARROWS = {"higher": "↑", "lower": "↓"}
NOTHING = "–"
SMALL = {
    "frechet_distance": frozenset({"n < 2d"}),
    **dict.fromkeys(GROUPS["memorization"], frozenset({FEW_TRAINING, FEW_VALIDATION})),
}
"""Measure -> flags that put a dagger beside its number."""
HEAD_ROOM = 24
"""Letters about how a number is parametrised that stand at the head of its column; more become a note."""
ROLES = {
    "floor": "Floor: real against real",
    "family": "Families",
    "default": "Default values: the same families untuned",
    "external": "External: images made elsewhere",
    "control": "Controls",
}
COMPETING = ("family", "external")
"""Roles that are compared with each other; the others show what the numbers can and can't tell."""


@dataclass(frozen=True)
class Number:
    """One number of one generator, joined over its finished training seeds.

    `std` is the sampling deviation (over draws; root mean square over seeds), `training_std` the deviation over seeds
    (None for one), `lower` and `upper` the interval over test subjects, and over seeds where there are several.
    """

    mean: float
    std: float
    training_std: float | None
    lower: float | None
    upper: float | None
    n_generated: int
    draws: int
    flags: frozenset[str]


@dataclass(frozen=True)
class Line:
    """One generator: its runs joined."""

    generator: str
    role: str
    runs: tuple[Run, ...]
    numbers: dict[Key, Number]
    costs: dict[str, float]

    @property
    def finished(self) -> int:
        """How many training seeds ended well."""
        return sum(run.finished for run in self.runs)

    @property
    def status(self) -> str:
        """'finished' if any seed did, else the first seed's status."""
        return "finished" if self.finished else self.runs[0].status

    @property
    def conditional(self) -> bool:
        """Whether its images have classes."""
        return all(run.conditional for run in self.runs)

    @property
    def per_class(self) -> bool:
        """Whether there is one model for each class."""
        return any(run.policy.get("unconditional") == "per_class" for run in self.runs)

    @property
    def copies(self) -> bool:
        """Whether the memorisation check caught it."""
        return any(key.measure == "memorization" and number.mean < COPYING for key, number in self.numbers.items())


@dataclass(frozen=True)
class Cell:
    """What stands in a table: the number, and what belongs beside it."""

    text: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".strip()


@dataclass(frozen=True)
class Column:
    """A column's head: short title with the better direction, and the protocol; `group` keeps columns together."""

    title: str
    detail: str = ""
    group: str = ""

    def __str__(self) -> str:
        return f"{self.title} ({self.detail})" if self.detail else self.title


@dataclass(frozen=True)
class Table:
    """A table before it is rendered: sections of rows, the first cell of each row being its head."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    sections: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    notes: tuple[str, ...] = ()


# ---- joining and ordering


@lru_cache(maxsize=2)
def lines(results: Results) -> tuple[Line, ...]:
    """Join the runs of each generator; floors first, families by the first distance, then controls."""
    first = first_distance(results)

    def place(line: Line) -> tuple[int, float]:
        number = line.numbers.get(first) if first and line.role in COMPETING else None
        return [*ROLES, line.role].index(line.role), number.mean if number and math.isfinite(number.mean) else math.inf

    return tuple(sorted((_line(results, name) for name in results.generators), key=place))  # ties: the plan's order


def first_distance(results: Results) -> Key | None:
    """The number that orders the table: the Fréchet distance on the first features that could be had."""
    keys = score_keys(results)
    return next((key for measure in DISTANCES for key in keys if key.measure == measure), None)


def score_keys(results: Results, label: str = ALL) -> list[Key]:
    """Every number there is for a class, by features in the suite's order and then by measure."""
    found = {key for run in results.runs for key in run.scores if key.label == label}
    features, measures = [*results.features, ""], list(MEASURES)

    def place(key: Key) -> tuple[int, str, int, str]:
        return _index(features, key.features), key.features, _index(measures, key.measure), key.measure

    return sorted(found, key=place)


def _index(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else len(known)


def _line(results: Results, generator: str) -> Line:
    runs = results.of(generator)
    done = [run for run in runs if run.finished]
    keys = dict.fromkeys(key for run in done for key in run.scores)
    measured = [run for run in runs if run.costs]
    costs = dict.fromkeys(name for run in measured for name in run.costs)
    return Line(
        generator,
        runs[0].role,
        runs,
        {key: _join([run for run in done if key in run.scores], key) for key in keys},
        {name: fmean(run.costs[name] for run in measured if name in run.costs) for name in costs},
    )


def _join(runs: Sequence[Run], key: Key) -> Number:
    scores = [run.scores[key] for run in runs]
    means = [score.mean for score in scores]
    lower, upper = scores[0].lower, scores[0].upper
    if len(scores) > 1:
        lower, upper = _interval_over_trainings(means, [score.replicates for score in scores])
    return Number(
        mean=fmean(means),
        std=math.sqrt(fmean(score.std**2 for score in scores)),
        training_std=mean_std(means)[1] if len(means) > 1 and all(map(math.isfinite, means)) else None,
        lower=lower,
        upper=upper,
        n_generated=scores[0].n_generated,
        draws=scores[0].draws,
        flags=frozenset(flag.strip() for score in scores for flag in re.split("[,;]", score.flag) if flag.strip()),
    )


def _interval_over_trainings(
    means: Sequence[float], replicates: Sequence[Sequence[float]]
) -> tuple[float | None, float | None]:
    """The interval over subjects and trainings; none where a training has no replicates, or other ones."""
    sizes = {len(row) for row in replicates}
    values = [*means, *(value for row in replicates for value in row)]
    if len(sizes) > 1 or min(sizes) < 2 or not all(map(math.isfinite, values)):
        return None, None
    return over_trainings(means, replicates)


# ---- names and numbers as people read them


def number_name(results: Results, key: Key) -> Column:
    """Name a number with its protocol: how many images, which features, against which side.

    An example is `FD@280 (domain, vs test)`.
    """
    counts = sorted({run.scores[key].n_generated for run in results.runs if key in run.scores} - {0})
    n = f"@{counts[0]}" if len(counts) == 1 else f"@{counts[0]}–{counts[-1]}" if counts else ""
    measure = MEASURES.get(key.measure)
    short = SHORT.get(key.measure) or (measure.title if measure else key.measure)
    doubt = str((results.features.get(key.features) or {}).get("doubt") or "")
    parts = [key.features, doubt, AGAINST.get(key.measure, "vs test"), _about(results, key)]
    return Column(f"{short}{n}", ", ".join(part for part in parts if part))


def head_name(results: Results, key: Key) -> Column:
    """A number's name at the head of a column: how it was parametrised is left to a note where that is long."""
    name, about = number_name(results, key), _about(results, key)
    return Column(name.title, name.detail.removesuffix(about).removesuffix(", ")) if len(about) > HEAD_ROOM else name


def long_notes(results: Results, keys: Iterable[Key]) -> list[str]:
    """What `head_name` left out, a note for each number."""
    return [
        f"{head_name(results, key)}, {MEASURES[key.measure].title if key.measure in MEASURES else key.measure}: "
        f"{_about(results, key)}."
        for key in keys
        if len(_about(results, key)) > HEAD_ROOM
    ]


def _about(results: Results, key: Key) -> str:
    found = {run.scores[key].about for run in results.runs if key in run.scores} - {""}
    return found.pop() if len(found) == 1 else ""


def duration(seconds: float) -> str:
    """Write seconds as a person would: '0.42 s', '3 min 12 s', '2 h 05 min'."""
    if seconds < 60:
        return f"{seconds:.3g} s" if round(seconds, 1) < 60 else "1 min 00 s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def cost_text(name: str, value: float | None) -> str:
    """Write a cost in the unit of its column."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if name == "peak_memory_bytes":
        return f"{value / 2**20:,.0f}"
    if name == "parameters":
        return next((f"{value / size:.3g} {unit}" for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"))
                     if value >= size), f"{value:.0f}")  # fmt: skip
    return duration(value)


def decimals(numbers: Iterable[Number]) -> int:
    """Digits after the point for a column: two significant digits of the typical deviation, three of the values."""
    numbers = [number for number in numbers if math.isfinite(number.mean)]
    deviations = [number.std for number in numbers if number.std > 1e-9 * abs(number.mean)]  # not rounding errors
    sizes = [abs(number.mean) for number in numbers if number.mean]
    if not deviations and not sizes:
        return 2
    digits = 1 - math.floor(math.log10(median(deviations))) if deviations else 2 - math.floor(math.log10(median(sizes)))
    return max(0, min(4, digits))


def number_cell(number: Number | None, digits: int, *, flagged: bool = False) -> Cell:
    """Write mean ± sampling deviation, and the interval over test subjects where there is one.

    Args:
        number: what is written; None: a dash.
        digits: after the point.
        flagged: whether too few images bias it: a dagger stands beside it.
    """
    if number is None or not math.isfinite(number.mean):
        return Cell(NOTHING)
    text = signed(number.mean, digits) + "†" * flagged
    if math.isfinite(number.std) and number.draws > 1:
        text += f" ± {number.std:.{digits}f}"
    if number.lower is None or number.upper is None:
        return Cell(text)
    return Cell(text, f"[{signed(number.lower, digits)}, {signed(number.upper, digits)}]")


def signed(value: float, digits: int) -> str:
    """Write a number with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


# ---- the tables

COST_COLUMNS = {
    "training_seconds": Column("Training ↓", "wall-clock"),
    "seconds_per_1000_samples": Column("Sampling ↓", "per 1,000 images"),
    "peak_memory_bytes": Column("Memory ↓", "peak, MiB"),
    "parameters": Column("Parameters"),
}


def main_table(results: Results, ranks: Mapping[str, int] | None = None) -> Table:
    """The table that is read first: distances on every features, fidelity, diversity, memorisation, costs."""
    joined, keys = lines(results), leading_keys(results)
    columns, bodies = [Column("Generator"), Column("Seeds", "finished")], [head_cells(line) for line in joined]
    if ranks:
        columns.insert(1, Column("Rank"))
        for line, body in zip(joined, bodies, strict=True):
            body.insert(1, Cell(str(ranks.get(line.generator, NOTHING))))
    for key in keys:
        add_scores(results, joined, key, columns, bodies)
        if key.measure == "frechet_distance":
            columns.append(Column("Seed std", f"of FD, {key.features}", key.features))
            digits = decimals(line.numbers[key] for line in joined if key in line.numbers)
            for line, body in zip(joined, bodies, strict=True):
                spread = line.numbers[key].training_std if key in line.numbers else None
                body.append(spread_cell(spread, digits))
    for name in (name for name in COST_ORDER if any(name in line.costs for line in joined)):
        columns.append(COST_COLUMNS[name])
        for line, body in zip(joined, bodies, strict=True):
            body.append(Cell(cost_text(name, line.costs.get(name))))
    caption = f"Quality and cost on {results.data_label}"
    notes = main_notes(results, joined, keys, columns, ranks)
    return Table("main", caption, tuple(columns), sections(joined, bodies), tuple(notes))


def spread_cell(spread: float | None, digits: int) -> Cell:
    """Write a deviation alone."""
    return Cell(NOTHING if spread is None or not math.isfinite(spread) else f"± {spread:.{digits}f}")


def deviation_table(results: Results) -> Table | None:
    """Both deviations of the main table's numbers, each in a column of its own; None where nothing has finished."""
    joined = [line for line in lines(results) if line.finished]
    keys = [key for key in leading_keys(results) if any(key in line.numbers for line in joined)]
    if not joined or not keys:
        return None
    columns, bodies = [Column("Generator"), Column("Seeds", "finished")], [head_cells(line) for line in joined]
    for key in keys:
        name = head_name(results, key)
        columns += [Column(f"{name.title} {over}", name.detail, key.features) for over in ("draws", "seeds")]
        digits = decimals(line.numbers[key] for line in joined if key in line.numbers)
        for line, body in zip(joined, bodies, strict=True):
            number = line.numbers.get(key)
            drawn = number.std if number and number.draws > 1 else None
            body += [spread_cell(drawn, digits), spread_cell(number.training_std if number else None, digits)]
    notes = (
        "Draws: deviation over fresh generations of one training (root mean square over seeds). Seeds: deviation over "
        f"training seeds of their means; {NOTHING} with one. Neither is the error of a mean, and the first never decides "
        "which family is better.",
    )
    caption = f"Sampling and training deviation on {results.data_label}"
    return Table("deviations", caption, tuple(columns), sections(joined, bodies), notes)


def further_table(results: Results) -> Table | None:
    """Every measure that the main table leaves out; None if it leaves out none."""
    joined = lines(results)
    keys = [
        key for key in score_keys(results) if key not in leading_keys(results) and key.measure not in GROUPS["utility"]
    ]
    columns, bodies = [Column("Generator")], [head_cells(line)[:1] for line in joined]
    for key in keys:
        add_scores(results, joined, key, columns, bodies)
    notes = long_notes(results, keys) + _daggers(results, joined, keys)
    caption = f"Further measures on {results.data_label}"
    return Table("further", caption, tuple(columns), sections(joined, bodies), tuple(notes)) if keys else None


def class_tables(results: Results) -> list[Table]:
    """The distance of every class, a table for each features that has one."""
    joined, tables = lines(results), []
    few = [str(entry["name"]) for entry in results.classes if entry.get("few")]
    everything = [key for name in results.class_names for key in score_keys(results, name)]
    features = dict.fromkeys(key.features for key in everything if key.measure == "frechet_distance")
    for used in features:
        columns, bodies = [Column("Generator")], [head_cells(line)[:1] for line in joined]
        keys = [Key(name, used, "frechet_distance") for name in results.class_names]
        if not any(key in line.numbers and math.isfinite(line.numbers[key].mean) for line in joined for key in keys):
            continue  # every class has too few images, of which there is a warning
        for key in keys:
            add_scores(results, joined, key, columns, bodies)
            marks = ("†" if too_few(joined, key) else "") + ("‡" if key.label in few else "")
            columns[-1] = Column(key.label + marks, f"{number_name(results, key).title}, vs test")
        notes = _daggers(results, joined, keys)
        if few:
            notes.append(f"‡ {few_classes(results)}.")
        notes += unconditional(joined)
        caption = f"FD by class ({used}, vs test of the same class) on {results.data_label}; lower is better"
        tables.append(Table(f"class-{used}", caption, tuple(columns), sections(joined, bodies), tuple(notes)))
    return tables


def unconditional(joined: Sequence[Line]) -> list[str]:
    """Name the rows without numbers by class, in a note; none if there are none."""
    whole = [line.generator for line in joined if line.role != "floor" and line.finished and not line.conditional]
    return [f"{NOTHING} Unconditional, so without numbers by class: {', '.join(whole)}."] if whole else []


def few_classes(results: Results) -> str:
    """Name the classes with too few test images, and how many they have; '' if there are none."""
    few = [f"{entry['name']} ({entry['test']})" for entry in results.classes if entry.get("few")]
    return f"Too few test images for a distance of its own: {', '.join(few)}" if few else ""


def leading_keys(results: Results) -> list[Key]:
    """The numbers of the main table: every Fréchet distance, and one each of the leading other measures."""
    keys = score_keys(results)
    chosen = [key for key in keys if key.measure == "frechet_distance"] or [k for k in [first_distance(results)] if k]
    beside = next((key for key in keys if key.measure == "frechet_distance_infinity"), None)
    if beside and beside._replace(measure="frechet_distance") == chosen[0]:  # of the distance that orders the table
        chosen.insert(1, beside)
    for measure in LEADING:
        chosen += [key for key in keys if key.measure == measure][:1]
    return chosen


def add_scores(
    results: Results, joined: Sequence[Line], key: Key, columns: list[Column], bodies: list[list[Cell]]
) -> None:
    """Append a number's column to the head and to every row."""
    name = head_name(results, key)
    measure = MEASURES.get(key.measure)
    mark = "†" if too_few(joined, key) else ""
    arrow = ARROWS.get(measure.better, "") if measure else ""
    digits = decimals(line.numbers[key] for line in joined if key in line.numbers)
    detail = name.detail
    real = [line.numbers[key] for line in joined if line.role == "floor" and key in line.numbers]
    if key.measure in BESIDE_REAL and real and math.isfinite(real[0].mean):
        detail = "; ".join(part for part in (detail, f"real data {real[0].mean:.{digits}f}") if part)
    known = results.recognition.get(key.features, {}).get(key.label)
    if key.measure == "class_accuracy" and known is not None:
        detail = f"{key.features}; real test images {known:.2f}"
    columns.append(Column(f"{name.title}{mark} {arrow}".strip(), detail, key.features))
    for line, body in zip(joined, bodies, strict=True):
        body.append(number_cell(line.numbers.get(key), digits, flagged=too_few([line], key)))


def head_cells(line: Line) -> list[Cell]:
    """The first two cells of a row: the name, with its status unless that is 'finished', and the seeds."""
    planned = len(line.runs)
    seeds = f"{line.finished}" + (f" of {planned}" if line.finished < planned else "")
    about = [line.status] if line.status != "finished" else []
    about += ["per class"] if line.per_class else []
    return [Cell(line.generator, ", ".join(about)), Cell(NOTHING if line.role in ("floor", "external") else seeds)]


def sections(
    joined: Sequence[Line], bodies: Sequence[list[Cell]]
) -> tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]:
    """Group rows by role, under a heading each."""
    roles = dict.fromkeys(line.role for line in joined)
    pairs = list(zip(joined, bodies, strict=True))
    return tuple((ROLES.get(role, role), tuple(tuple(b) for line, b in pairs if line.role == role)) for role in roles)


def too_few(joined: Iterable[Line], key: Key) -> bool:
    """Whether too few images stand behind the number.

    They bias the Fréchet distance, which needs a covariance, and leave it open how near real images lie to each other.
    """
    flags = SMALL.get(key.measure, frozenset())
    return any(flags & line.numbers[key].flags for line in joined if key in line.numbers)


def _daggers(results: Results, joined: Sequence[Line], keys: Iterable[Key]) -> list[str]:
    """Say what the daggers beside these numbers mean."""
    sizes = [f"{name} d = {entry['dimensions']}" for name, entry in results.features.items() if entry.get("dimensions")]
    marked = {key.measure for key in keys if too_few(joined, key)}
    notes = []
    if "frechet_distance" in marked:
        notes.append(
            f"† Fewer images than twice the feature dimensions (n < 2d; {', '.join(sizes)}): biased upwards; "
            "compare at the same n only, as with the floor above."
        )
    if copying := [SHORT[measure] for measure in GROUPS["memorization"] if measure in marked]:
        notes.append(
            f"{' and '.join(copying)}†: of fewer than 51 training or 100 validation images, too few to say how near a fresh "
            "image lies to them: no copying is shown, and none excluded."
        )
    return notes


def main_notes(
    results: Results,
    joined: Sequence[Line],
    keys: Sequence[Key],
    columns: Sequence[Column],
    ranks: Mapping[str, int] | None,
) -> list[str]:
    """What a reader must know beside the main table."""
    notes = [f"{results.stamp.capitalize()}."] if results.stamp else []
    if results.simulated:
        notes.append("Data are a phantom (simulated), not patients.")
    draws = results.protocol.get("draws", "several")
    notes.append(
        f"Mean ± sampling deviation over {draws} draws; [95 % interval by bootstrap over test subjects, and over "
        "training seeds where there are several]; @n: that many real and as many generated images."
    )
    if any(line.role == "family" and line.finished == 1 for line in joined):
        notes.append(
            "Of a family with one training seed the interval holds the sampling of test subjects alone: it is no statement "
            "about the family."
        )
    if any(column.title == "Seed std" for column in columns):
        notes.append(f"Seed std: deviation over training seeds; {NOTHING} with one, which can't show it.")
    if ranks:
        notes.append(
            "Rank: one more than the rows that are better by the first distance and told apart, pair by pair (Holm, 5 %)."
        )
        if any(line.role == "external" and line.generator in ranks for line in joined):
            notes.append(
                "Images made elsewhere were trained under no budget of this suite, and their interval holds no variation "
                "of training: their rank is of this set of images."
            )
    else:
        notes.append("Families stand in the order of the first distance; this is no ranking.")
    notes += long_notes(results, keys) + _daggers(results, joined, keys)
    if any(line.per_class for line in joined):
        notes.append("Per class: one model per class, the budget shared in proportion to their images.")
    for run in (line.runs[0] for line in joined if line.role == "external" and line.runs[0].external):
        how = f", {run.external['rule']}" if run.external.get("rule") else ""
        where = f" in the folder {run.external['path_name']!r}" if run.external.get("path_name") else ""
        notes.append(f"{run.generator}: {run.external.get('images', 0):,} images made elsewhere{where}{how}.")
    for name, entry in results.features.items():
        if entry.get("status") != "ok":
            notes.append(f"No numbers on {name} features: {entry.get('reason') or entry.get('status')}.")
        elif entry.get("doubt"):
            notes.append(f"Numbers on {name} features: {entry['doubt']}.")
    ended: dict[tuple[str, str], list[str]] = {}
    for run in (run for line in joined for run in line.runs if not run.finished):
        ended.setdefault((run.generator, said(run)), []).append(str(run.seed))
    for (generator, end), seeds in ended.items():
        notes.append(f"{generator}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {end}.")
    return notes


def said(run: Run) -> str:
    """How a run ended, in a few words: 'failed: out of memory'."""
    reason = run.reason.strip().rstrip(".")
    return reason if reason.startswith(run.status) else f"{run.status}: {reason}"


def summary_table(results: Results) -> pd.DataFrame:
    """Return one row per generator, in the table's order, every number in full precision and in columns of its own.

    A number called `FD@280 (domain, vs test)` has the columns of that name and of that name followed by ` sampling
    std`, ` training std`, ` lower`, ` upper` and ` flag`; costs keep their names and units (seconds, bytes).
    """
    records: list[dict[str, object]] = []
    for line in lines(results):
        reasons = [f"seed {run.seed}: {run.reason}" for run in line.runs if not run.finished]
        record: dict[str, object] = {
            "generator": line.generator,
            "role": line.role,
            "status": line.status,
            "reason": "; ".join(reasons),
            "seeds": len(line.runs),
            "seeds_finished": line.finished,
        }
        for key in score_keys(results):
            name, number = str(number_name(results, key)), line.numbers.get(key)
            record[name] = number.mean if number else None
            record[f"{name} sampling std"] = number.std if number else None
            record[f"{name} training std"] = number.training_std if number else None
            record[f"{name} lower"] = number.lower if number else None
            record[f"{name} upper"] = number.upper if number else None
            record[f"{name} flag"] = "; ".join(sorted(number.flags)) if number else ""
        records.append(record | {cost: line.costs.get(cost) for cost in COST_ORDER})
    frame = pd.DataFrame(records)
    texts = ["generator", "role", "status", "reason", "seeds", "seeds_finished"]
    return frame.astype({name: "float64" for name in frame.columns if name not in texts and not name.endswith(" flag")})


def class_summary(results: Results) -> pd.DataFrame:
    """Return the distance of every generator and class in full precision, joined over training seeds.

    Columns: generator, role, features, class, n, the mean, sampling_std, training_std, lower, upper and flag.
    """
    columns = "generator role features class n frechet_distance sampling_std training_std lower upper flag"
    keys = [key for name in results.class_names for key in score_keys(results, name)]
    rows = [
        (line.generator, line.role, key.features, key.label, n.n_generated, n.mean, n.std, n.training_std, n.lower,
         n.upper, "; ".join(sorted(n.flags)))
        for line in lines(results)
        for key, n in ((key, line.numbers[key]) for key in keys if key in line.numbers)
        if key.measure == "frechet_distance"
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns.split())


def terminal_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table for 120 to 140 columns of a terminal."""
    leading = leading_keys(results)
    distances = [key for key in leading if key.measure in DISTANCES][:2]
    keys = distances + [key for key in leading if key.measure in LEADING]
    heads = ["generator"]
    for key in keys:
        name = number_name(results, key)
        heads.append(f"{name.title} {key.features}" if key in distances else SHORT[key.measure])
    heads += ["train", "per 1,000", "MiB", "status"]
    joined = lines(results)
    digits = [decimals(line.numbers[key] for line in joined if key in line.numbers) for key in keys]
    rows = []
    for line in joined:
        row = [line.generator]
        for key, places in zip(keys, digits, strict=True):
            cell = number_cell(line.numbers.get(key), places, flagged=too_few([line], key))
            row.append(str(cell) if key in distances[:1] else cell.text.split(" ")[0])
        row += [cost_text(name, line.costs.get(name)) for name in COST_ORDER[:3]]
        partly = 0 < line.finished < len(line.runs)
        rows.append([*row, f"{line.finished} of {len(line.runs)} seeds" if partly else line.status])
    return heads, rows
