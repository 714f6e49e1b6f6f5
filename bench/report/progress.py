"""Distance and Inception Score against training progress: a figure and a table for each, with the real-data line.

Measured while training went on, on validation images and with fewer images than the final scores: it shows how a family
came to where it is, not where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.metrics.records import MEASURES
from bench.report.figures import Picture, finished_picture, logarithmic, looks, new_figure, plain
from bench.report.results import ALL, Results
from bench.report.tables import ARROWS, NOTHING, SHORT, Cell, Column, Line, Table, lines

SHOWN_POINTS = 5
"""Columns of a progress table."""
REAL = "real (training) images"
"""The line that training images in place of generated ones would give."""


def progress_records(results: Results) -> list[tuple[Line, pd.DataFrame]]:
    """Every generator's scores on the way, over all classes: columns measure, features, images_seen, value.

    Seeds are joined by the mean of each point: those that finished, or all where none did. Points are told apart by
    their number and not by the images seen, which differ between seeds where the budget is minutes.
    """
    found = []
    for line in lines(results):
        runs = [run for run in line.runs if run.finished] or line.runs
        frames = [_numbered(run.progress()) for run in runs]
        if any(len(frame) for frame in frames):
            joined = pd.concat(frame for frame in frames if len(frame))
            means = joined.groupby(["features", "measure", "point"], sort=False)[["images_seen", "value"]].mean()
            found.append((line, means.reset_index().sort_values("point", kind="stable")))
    return found


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows over all classes of measures that are known, in the order of training."""
    frame = frame[(frame["class"] == ALL) & frame["measure"].isin(list(SHORT))].sort_values(
        "images_seen", kind="stable"
    )
    return frame.assign(point=frame.groupby(["features", "measure"]).cumcount())


def kinds(results: Results, records: Sequence[tuple[Line, pd.DataFrame]]) -> list[tuple[str, str]]:
    """Every (measure, features) that was measured, measures first, features in the suite's order."""
    found = {pair for _, frame in records for pair in frame[["measure", "features"]].itertuples(index=False, name=None)}
    order = {name: place for place, name in enumerate(results.features)}
    return sorted(found, key=lambda pair: (list(MEASURES).index(pair[0]), order.get(pair[1], len(order)), pair[1]))


def title(results: Results, measure: str, features: str) -> str:
    """Name a number with its protocol: 'FD@240 (domain, vs validation)', 'IS@240 (domain)'."""
    n = f"@{results.progress['n']}" if results.progress.get("n") else ""
    return f"{SHORT[measure]}{n} ({features}{'' if measure == 'inception_score' else ', vs validation'})"


def draw_progress(results: Results) -> Picture | None:
    """A panel for every measure and features, a curve for every family, the real-data line dashed."""
    records = progress_records(results)
    if not records:
        return None
    panels, look = kinds(results, records), looks(results)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(results, 12, 3.4 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (measure, features) in zip(grid.flat, panels, strict=False):
        values = []
        for line, frame in records:
            part = frame[(frame["measure"] == measure) & (frame["features"] == features)]
            colour, marker = look[line.generator]
            name = plain(line.generator)
            if not len(part):
                continue
            x = part["images_seen"] / 1000
            axes.plot(x, part["value"], color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
            values += part["value"].tolist()
        real = results.progress.get("real", {}).get(f"{features}/{measure}")
        if real is not None:
            axes.axhline(real, color="#222222", linestyle=(0, (4, 2)), linewidth=1.2, label=REAL)
            values.append(real)
        finite = np.array([value for value in values if math.isfinite(value)])
        if measure != "inception_score" and len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
            logarithmic(axes, "y")
        arrow = ARROWS[MEASURES[measure].better]
        axes.set_title(f"{title(results, measure, features)} {arrow}")
        axes.set_xlabel("images seen (thousands)")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    known: dict[str, Any] = {}  # a family may be missing from some panels
    for axes in list(grid.flat)[: len(panels)]:
        known |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    ordered = sorted(known, key=lambda name: name == REAL)
    handles = [known[name] for name in ordered]
    columns = min(7, len(ordered))
    figure.legend(handles, ordered, loc="outside upper center", ncols=columns, frameon=False, fontsize=8.5)
    return finished_picture(
        figure,
        "progress",
        "Quality against training progress",
        f"{_protocol(results)} So compare curves with each other and with the dashed line, which has training images "
        "in place of generated ones. ↓: lower is better, ↑: higher is better. Seeds are joined by their mean.",
        f"Distance and Inception Score against images seen of {', '.join(line.generator for line, _ in records)}.",
    )


def progress_tables(results: Results) -> list[Table]:
    """The first distance and the Inception Score at a few points of training, families by row, real data first."""
    records = progress_records(results)
    every = kinds(results, records)
    chosen = [
        next((pair for pair in every if pair[0] == name), None) for name in ("frechet_distance", "inception_score")
    ]
    return [_table(results, records, *pair) for pair in chosen if pair]


def _protocol(results: Results) -> str:
    n = results.progress.get("n")
    count = f"{n} " if n else ""
    return (
        f"Measured during training against {count}validation images with as many generated ones: fewer than behind the "
        "final scores, which are measured on test images, and not to be compared with them."
    )


def _table(results: Results, records: Sequence[tuple[Line, pd.DataFrame]], measure: str, features: str) -> Table:
    parts: list[tuple[Line, np.ndarray, np.ndarray]] = []
    for line, frame in records:
        part = frame[(frame["measure"] == measure) & (frame["features"] == features)]
        if len(part):
            parts.append((line, part["images_seen"].to_numpy(), part["value"].to_numpy()))
    ends = max(float(seen.max()) for _, seen, _ in parts)
    count = min(SHOWN_POINTS, max(len(set(seen)) for _, seen, _ in parts))
    wanted = [ends * (number + 1) / count for number in range(count)]
    columns = [Column("Generator"), *(Column(f"{_thousands(images)} images") for images in wanted)]
    real = results.progress.get("real", {}).get(f"{features}/{measure}")
    rows = [[Cell(REAL), *[Cell(_written(real, measure))] * count]]
    for line, seen, values in parts:
        row = [Cell(line.generator, "" if line.finished else line.status)]
        for images in wanted:
            at = int(np.argmin(np.abs(seen - images)))
            near = abs(seen[at] - images) <= 0.6 * ends / count
            row.append(Cell(_written(float(values[at]), measure) if near else NOTHING))
        rows.append(row)
    caption = (
        f"Training progress on {results.data_label}: {title(results, measure, features)} against training progress; "
        f"{MEASURES[measure].better} is better"
    )
    notes = (_protocol(results), "Each number is of the measured point nearest to its column; seeds joined by mean.")
    return Table(f"progress-{measure}", caption, tuple(columns), (("", tuple(map(tuple, rows))),), notes)


def _written(value: float | None, measure: str) -> str:
    """Distances span orders of magnitude: the small ones have more digits after the point, the large ones fewer."""
    if value is None or not math.isfinite(value):
        return NOTHING
    digits = 3 if measure == "inception_score" else 4 if abs(value) < 0.1 else 2 if abs(value) < 100 else 1
    return f"{value:.{digits}f}".replace("-", "−")


def _thousands(images: float) -> str:
    return f"{images / 1000:.3g}k" if images >= 1000 else f"{images:.0f}"
