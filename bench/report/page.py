"""The report: what may be concluded, what must be warned of, whether the controls did their work; and all files.

Everything is derived from the results folder and written atomically; running it twice gives the same bytes. No winner
is named from fewer than three training seeds, from overlapping intervals, or of a family that copies its training set.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from bench.metrics.records import COSTS, MEASURES
from bench.report.figures import Picture, draw_all, style, withheld
from bench.report.progress import draw_progress, progress_tables
from bench.report.render import to_latex, to_markdown
from bench.report.reported import HEADING as REPORTED
from bench.report.reported import reported_tables
from bench.report.results import ALL, Key, Results, read_results, results_frame
from bench.report.tables import (
    COPYING,
    NOTHING,
    Cell,
    Column,
    Line,
    Table,
    class_summary,
    class_tables,
    decimals,
    few_classes,
    first_distance,
    further_table,
    lines,
    main_table,
    number_cell,
    number_name,
    summary_table,
)
from bench.report.translators import draw_translations, translator_tables
from bench.store import write_bytes

SEEDS_NEEDED = 3
"""Training seeds a family needs before it may be ranked."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PAGE_BYTES = 9_000_000
"""What the page may weigh; sample grids are compressed until it does."""


@dataclass(frozen=True)
class ReportSummary:
    """What was written, and what a caller needs to know of it."""

    folder: Path
    files: tuple[Path, ...]
    conclusion: str
    warnings: tuple[str, ...]
    finished: int
    failed: int
    pending: int


@dataclass(frozen=True)
class Check:
    """A control or floor: what it should show, what it showed, and whether that agrees (None: can't be told)."""

    name: str
    expected: str
    found: str
    ok: bool | None


def write_report(folder: Path) -> ReportSummary:
    """Rebuild every table, figure and the page from a results folder alone, each file whole or not at all.

    Writes results.csv (long form), table.csv (a row per generator, every number), table_by_class.csv, table.md,
    table.html and table.tex (main table, further measures, distances by class), figures/*.svg and *.png, report.html.
    Figures of an earlier report that are no longer drawn are removed.

    Raises:
        InputError: the folder holds no results that can be read.
        BenchError: a file can't be written.
    """
    results = read_results(folder)
    tables = all_tables(results)
    pictures = draw_all(results)
    with style():
        pictures += [picture for picture in [draw_progress(results)] if picture] + draw_translations(results)
    page = render_page(results, pictures)
    contents: dict[str, bytes] = {
        "results.csv": results_frame(results).to_csv(index=False, lineterminator="\n").encode(),
        "table.csv": summary_table(results).to_csv(index=False, lineterminator="\n").encode(),
        "table_by_class.csv": class_summary(results).to_csv(index=False, lineterminator="\n").encode(),
        "table.md": to_markdown(tables).encode(),
        "table.html": _template(bare=True, title=f"{results.name}: tables", tables=tables).encode(),
        "table.tex": to_latex(tables).encode(),
    }
    for picture in pictures:
        contents[f"figures/{picture.name}.svg"] = picture.svg
        contents[f"figures/{picture.name}.png"] = picture.png
    contents["report.html"] = page.encode()
    for name, content in contents.items():
        write_bytes(folder / name, content)
    for stale in (folder / "figures").glob("*.*"):
        if stale.suffix in (".svg", ".png") and f"figures/{stale.name}" not in contents:
            stale.unlink()
    return ReportSummary(
        folder=folder,
        files=tuple(folder / name for name in contents),
        conclusion=conclusion(results),
        warnings=tuple(warnings(results)),
        finished=sum(run.finished for run in results.runs),
        failed=sum(run.status in ("failed", "diverged", "interrupted") for run in results.runs),
        pending=sum(run.status == "pending" for run in results.runs),
    )


def all_tables(results: Results) -> list[Table]:
    """The main table, what it leaves out, and the distances by class."""
    further = further_table(results)
    tables = [main_table(results, ranks(results)), *([further] if further else []), *class_tables(results)]
    return [*tables, *progress_tables(results), *translator_tables(results), *reported_tables(results)]


# ---- what may be said


def ranks(results: Results) -> dict[str, int]:
    """Rank the families that have enough training seeds: 1 + how many lie wholly below; empty if fewer than two do.

    So families whose intervals overlap share a rank, unless one of them is separated from a third.
    """
    able = _competitors(results)
    if len(able) < 2 or results.stamp or any(run.status == "pending" for run in results.runs):
        return {}
    bounds = {line.generator: _bounds(line, results) for line in able}
    return {name: 1 + sum(upper < own[0] for _, upper in bounds.values()) for name, own in bounds.items()}


def _competitors(results: Results) -> list[Line]:
    """Families with enough finished seeds and an interval, nearest first."""
    families = [line for line in lines(results) if line.role == "family"]
    return [line for line in families if line.finished >= SEEDS_NEEDED and _bounds(line, results)]


def _bounds(line: Line, results: Results) -> Any:
    """The interval of the first distance, or None."""
    first = first_distance(results)
    number = line.numbers.get(first) if first else None
    if number is None or number.lower is None or number.upper is None:
        return None
    return number.lower, number.upper


def conclusion(results: Results) -> str:
    """Say in one or two sentences what the numbers allow to conclude, and no more."""
    families = [line for line in lines(results) if line.role == "family"]
    done = [line for line in families if line.finished]
    first = first_distance(results)
    pending = sum(run.status == "pending" for run in results.runs)
    if results.stamp:
        return f"Nothing may be concluded: these outputs are stamped '{results.stamp}'."
    if not done or first is None:
        return "Nothing may be concluded: no family has finished with a distance."
    if pending:
        return f"Nothing may be concluded yet: {pending} of {len(results.runs)} runs are pending."
    able = _competitors(results)
    if len(able) < 2:
        most, needed = max(line.finished for line in done), _count(SEEDS_NEEDED)
        if len(done) == 1:
            return f"No ranking may be named: {done[0].generator} is the only family that finished."
        seeds = f"{_count(most)} training seed{'s' if most > 1 else ''}"
        if most >= SEEDS_NEEDED:
            return f"No ranking may be named: fewer than two families have {needed} training seeds and an interval."
        return f"No ranking may be named: {seeds} per family where {needed} are needed."
    return _verdict(results, first, able, [line for line in families if line not in able])


def _verdict(results: Results, first: Key, able: Sequence[Line], others: Sequence[Line]) -> str:
    """Name the lowest distance among ranked families, or the families that share it."""
    name = number_name(results, first)
    best = able[0]
    sharing = [line.generator for line in able[1:] if _bounds(line, results)[0] <= _bounds(best, results)[1]]
    cell = number_cell(best.numbers[first], decimals(line.numbers[first] for line in able))
    scope = f"of the {_count(len(able))} families with {_count(SEEDS_NEEDED)} or more training seeds"
    if sharing:
        names = _join([best.generator, *sharing])
        text = f"No single winner: at the lowest {name} the 95 % intervals of {names} overlap, {scope}."
    elif best.copies:
        text = (
            f"No winner: {best.generator} has the lowest {name}, {cell}, {scope}, but the memorisation check "
            "finds that it copies training images."
        )
    else:
        text = f"{best.generator} has the lowest {name}, {cell}, {scope}; its 95 % interval overlaps no other family's."
    if others:
        left = [f"{line.generator} ({line.finished} of {len(line.runs)} seeds finished)" for line in others]
        text += f" Not ranked: {_join(left)}."
    return text


def warnings(results: Results) -> list[str]:
    """Everything that limits what the numbers mean."""
    found = []
    joined = lines(results)
    leaking = int(results.split.get("leaking_subjects") or 0)
    if leaking:
        by = results.split["by"]
        found.append(f"The split (by {by}) leaks: {leaking} subjects have images on more than one side.")
    for name, entry in results.features.items():
        if entry.get("status") != "ok":
            found.append(f"Features {name} were not available: {entry.get('reason') or entry.get('status')}.")
    if few_classes(results):
        found.append(f"{few_classes(results)}.")
    flags: dict[str, set[str]] = {}
    for line in joined:
        for key, number in line.numbers.items():
            for flag in number.flags - {"too few"} - ({"n < 2d"} if key.measure != "frechet_distance" else set()):
                where = (key.features or key.measure) + ("" if key.label == ALL else " by class")
                flags.setdefault(flag, set()).add(where)
    known = {
        "n < 2d": "Fréchet distances of fewer images than twice the feature dimensions (n < 2d), so biased upwards"
    }
    found += [f"{known.get(flag, flag)}: {_join(sorted(places))}." for flag, places in sorted(flags.items())]
    copying = [line.generator for line in joined if line.role == "family" and line.copies]
    if copying:
        found.append(f"Memorisation (C_T below −{-COPYING:g}) caught {_join(copying)}: a low distance may be copying.")
    ended = [run for run in results.runs if run.status in ("failed", "diverged", "interrupted")]
    if ended:
        found.append(f"{_count(len(ended)).capitalize()} of {len(results.runs)} runs did not finish; see Failures.")
    if _budget(results) == "minutes":
        found.append("The budget was wall-clock minutes: these results can't be reproduced bit by bit.")
    if len(_environments(results)) > 1:
        found.append("The runs come from different environments: their costs can't be compared.")
    if results.data.get("skipped"):
        found.append(f"{results.data['skipped']} images could not be used and were left out.")
    return found


def checks(results: Results) -> list[Check]:
    """Judge floors and controls by what each is there to show."""
    first, joined = first_distance(results), lines(results)
    families = [line for line in joined if line.role == "family" and line.finished]
    rules = {
        "floor_validation": ("Real validation subjects against test subjects: below every family.", _floor_check),
        "floor_fresh": ("Fresh real subjects against test subjects: below every family.", _floor_check),
        "training_copy": ("Copies training images: memorisation must catch it, however low its distance.", _copy_check),
        "mean_image": ("One image over and over: no family has a lower recall.", _mean_check),
        "gaussian": ("The linear reference (probabilistic PCA): every family is nearer than it.", _gaussian_check),
    }
    found = []
    for line in joined:
        # a row may bear a label of its own; then its family says which control it is
        known = next((name for name in (line.runs[0].family, line.generator) if name in rules), None)
        if known is None:
            if line.role != "family":
                found.append(Check(line.generator, "No expectation is known.", _told(results, line, first), None))
            continue
        expected, rule = rules[known]
        if not line.finished or first is None:
            found.append(Check(line.generator, expected, line.status, None))
            continue
        text, ok = rule(results, line, families, first)
        found.append(Check(line.generator, expected, text, ok))
    return found


def _floor_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    own = line.numbers.get(first)
    below = [f.generator for f in families if own and first in f.numbers and f.numbers[first].mean <= own.mean]
    text = _told(results, line, first)
    return (f"{text}; not above it: {_join(below)}" if below else text), (not below if own else None)


def _copy_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    memory = [(key, n) for key, n in line.numbers.items() if key.label == ALL and key.measure == "memorization"]
    text = _told(results, line, first)
    if not memory:
        return f"{text}; memorisation was not measured", None
    return f"{text}; {_told(results, line, memory[0][0])}", line.copies


def _mean_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    key = Key(ALL, first.features, "recall")
    if key not in line.numbers:
        return "recall was not measured", None
    lower = [f.generator for f in families if key in f.numbers and f.numbers[key].mean < line.numbers[key].mean]
    text = _told(results, line, key)
    return (f"{text}; lower still: {_join(lower)}" if lower else text), not lower


def _gaussian_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    own = line.numbers.get(first)
    worse = [f.generator for f in families if own and first in f.numbers and f.numbers[first].mean >= own.mean]
    text = _told(results, line, first)
    return (f"{text}; not nearer: {_join(worse)}" if worse else text), (not worse if own else None)


def _told(results: Results, line: Line, key: Key | None) -> str:
    """A number with its full name, such as 'FD@280 (domain, vs test) 3.1 ± 0.2 [2.8, 3.5]'."""
    if key is None or key not in line.numbers:
        return "no number" if line.finished else line.status
    peers = [other.numbers[key] for other in lines(results) if key in other.numbers]
    return f"{number_name(results, key)} {number_cell(line.numbers[key], decimals(peers))}"


def _count(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else str(number)


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---- the page


def render_page(results: Results, pictures: Sequence[Picture]) -> str:
    """Return report.html: one file that asks nothing of the network."""
    grids = [picture for picture in pictures if picture.name.startswith("samples_")]
    charts = {picture.name: picture for picture in pictures if picture not in grids}
    sources = {picture.name: _chart_source(picture) for picture in charts.values()}
    room = PAGE_BYTES - sum(map(len, sources.values())) - len(results.suite_text) - 500_000
    sources |= {picture.name: _grid_source(picture.png, room // max(1, len(grids))) for picture in grids}
    return _template(
        bare=False,
        title=results.name,
        results=results,
        conclusion=conclusion(results),
        warnings=warnings(results),
        main=main_table(results, ranks(results)),
        further=further_table(results),
        by_class=class_tables(results),
        progress=progress_tables(results),
        translation=translator_tables(results),
        reported=reported_tables(results),
        reported_heading=REPORTED,
        charts=charts,
        grids=grids,
        sources=sources,
        withheld=[line.generator for line in withheld(results)],
        checks=checks(results),
        protocol=protocol(results),
        details=[_class_counts(results), _policies(results), _measures(results)],
        environments=_environments(results),
        failures=[run for run in (*results.runs, *results.translators) if not run.finished],
    )


def protocol(results: Results) -> list[tuple[str, str]]:
    """The conditions under which every number was made, as terms and descriptions."""
    data, split, rules = results.data, results.split, results.protocol
    channels, height, width = data["shape"]
    several = f"{channels} channels" if channels > 1 else "1 channel"
    found = [
        (
            "Data",
            f"{results.data_label}: {data['n']:,} images of {height} × {width}, {several}; "
            f"{data.get('skipped') or 0} left out; fingerprint {data['fingerprint']}",
        ),
        (
            "Split",
            f"by {split['by']}, seed {split['seed']}: {split['train']:,} training, {split['validation']:,} validation, "
            f"{split['test']:,} test images; {split['leaking_subjects']} subjects leak; hash {split['hash']}",
        ),
        ("Draws", f"{rules['draws']} fresh generations from every trained model"),
        (
            "Images per number",
            f"{rules['n_all']:,} real and as many generated over all classes, {rules['n_class']:,} per class "
            f"({rules['samples_per_draw']:,} asked for; the smallest sufficient class bounds it)",
        ),
        (
            "Intervals",
            f"95 %, {rules.get('replicates', 'no')} bootstrap replicates over test subjects, nested in the training "
            "seeds where there are several",
        ),
    ]
    for name, entry in results.features.items():
        if entry.get("status") == "ok":
            parts = [
                f"{entry['dimensions']} dimensions" if entry.get("dimensions") else "",
                str(entry.get("rule") or ""),
            ]
            parts += [f"{key} {entry[key]}" for key in ("version", "backend") if entry.get(key)]
            parts += [f"{_words(key)} {_value(value)}" for key, value in (entry.get("details") or {}).items()]
            found.append((f"Features: {name}", "; ".join(part for part in parts if part)))
        else:
            found.append((f"Features: {name}", f"{entry.get('status')}: {entry.get('reason') or 'no reason stored'}"))
    return found


def _class_counts(results: Results) -> Table:
    heads = ("Class", "Training", "Validation", "Test", "Test subjects", "Used per draw", "Note")
    rows = [
        (str(entry["name"]), *(f"{entry[k]:,}" for k in ("train", "validation", "test", "subjects_test", "n")),
         "too few" if entry.get("few") else "")
        for entry in results.classes
    ]  # fmt: skip
    return _simple("classes", "Images by class and side of the split", heads, rows)


def _policies(results: Results) -> Table:
    """What exactly was scored: the sampling policy and the hyper-parameters of every generator."""
    rows = []
    for line in lines(results):
        run = next((run for run in line.runs if run.policy or run.hyperparameters), line.runs[0])
        if line.role != "floor":
            seen = NOTHING if run.images_seen is None else f"{run.images_seen:,}"
            classes = NOTHING if run.status == "pending" else "yes" if line.conditional else "no"
            given = {**({"preset": run.preset} if run.preset else {}), **run.hyperparameters}
            scored = {key: value for key, value in run.policy.items() if value is not None}
            rows.append((line.generator, run.family, classes, seen, _pairs(scored), _pairs(given)))
    heads = ("Generator", "Family", "Conditional", "Images seen", "Scored", "Hyper-parameters")
    return _simple("policies", "What was trained and what was scored", heads, rows)


def _measures(results: Results) -> Table:
    """The measures used, with direction, range and source."""
    used = dict.fromkeys([key.measure for run in results.runs for key in run.scores])
    costs = [name for name in MEASURES if name in COSTS and any(name in run.costs for run in results.runs)]
    rows = []
    for measure in (MEASURES[name] for name in [*(n for n in MEASURES if n in used and n not in COSTS), *costs]):
        better = {"higher": "higher is better", "lower": "lower is better"}.get(measure.better, "neither")
        ends = [f"{end:g}".replace("inf", "∞") for end in (measure.low, measure.high)]
        rows.append(
            (
                measure.title[:1].upper() + measure.title[1:],
                better,
                " to ".join(ends).replace("-", "−"),
                measure.reference or "",
            )
        )
    return _simple("measures", "Measures", ("Measure", "Direction", "Range", "Source"), rows)


def _simple(name: str, caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    body = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table(name, caption, tuple(Column(head) for head in heads), (("", body),))


def _environments(results: Results) -> list[dict[str, str]]:
    """The different machines and versions the runs come from."""
    found: list[dict[str, str]] = []
    for run in results.runs:
        environment = {_words(str(key)): _value(value) for key, value in run.environment.items()}
        if environment and environment not in found:
            found.append(environment)
    return found


def _budget(results: Results) -> str:
    """The name of the unit the suite's budget is in."""
    budget = results.suite.get("budget")
    return next((k for k, v in budget.items() if v is not None), "") if isinstance(budget, Mapping) else ""


def _pairs(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{_words(key)} {_value(value)}" for key, value in mapping.items())


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: NOTHING, True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _template(**values: Any) -> str:
    source = resources.files("bench.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(**values)


def _chart_source(picture: Picture) -> str:
    """The drawing as a data URI: SVG where it is small, else PNG."""
    kind, content = ("svg+xml", picture.svg) if len(picture.svg) < 600_000 else ("png", picture.png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _grid_source(png: bytes, room: int) -> str:
    """A grid as a data URI of at most `room` characters: as it is, or as JPEG of falling quality and size."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    if len(source) <= room:
        return source
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (85, 60, 40, 40, 40, 40, 40):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(source) <= room:
            break
        if quality == 40:
            image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)))
    return source
