"""Distance and Inception Score against training progress: a figure and a table for each, with the real-data line.

Measured while training went on, on validation images and with fewer images than the final scores: it shows how a family
came to where it is, not where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.metrics.records import MEASURES
from bench.report.figures import Picture, finished_picture, logarithmic, looks, new_figure, plain
from bench.report.results import Results
from bench.report.tables import ARROWS, NOTHING, SHORT, Cell, Column, Line, Table, lines

SHOWN_POINTS = 5
"""Columns of a progress table."""


def progress_records(results: Results) -> list[tuple[Line, pd.DataFrame]]:
    """Every generator's scores on the way, its seeds joined by their mean."""
    found = []
    for line in lines(results):
        frames = [frame for run in line.runs if len(frame := run.progress())]
        if frames:
            joined = pd.concat(frames).groupby(["features", "measure", "images_seen"], sort=False)["value"].mean()
            found.append((line, joined.reset_index()))
    return found


def kinds(results: Results, records: Sequence[tuple[Line, pd.DataFrame]]) -> list[tuple[str, str]]:
    """Every (measure, features) that was measured, measures first, features in the suite's order."""
    found = {pair for _, frame in records for pair in frame[["measure", "features"]].itertuples(index=False, name=None)}
    order = list(results.features)
    return sorted(found, key=lambda pair: (list(MEASURES).index(pair[0]), order.index(pair[1]), pair[1]))


def title(measure: str, features: str, n: int) -> str:
    """Name a number with its protocol."""
    return (
        f"{SHORT[measure]}@{n} ({features}, vs validation)" if measure != "inception_score" else f"IS@{n} ({features})"
    )


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
            x = part["images_seen"] / 1000
            axes.plot(x, part["value"], color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
            values += part["value"].tolist()
        real = results.progress.get("real", {}).get(f"{features}/{measure}")
        if real is not None:
            axes.axhline(real, color="#222222", linestyle=(0, (4, 2)), linewidth=1.2, label="real (training) images")
            values.append(real)
        finite = np.array([value for value in values if math.isfinite(value)])
        if measure != "inception_score" and len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
            logarithmic(axes, "y")
        arrow = ARROWS[MEASURES[measure].better]
        axes.set_title(f"{title(measure, features, int(results.progress.get('n', 0)))} {arrow}")
        axes.set_xlabel("images seen (thousands)")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(9, len(names)), frameon=False, fontsize=8.5)
    return finished_picture(
        figure,
        "progress",
        "Quality against training progress",
        f"Measured on the way against {results.progress.get('n', 0)} validation images, with as many generated ones: "
        "fewer than behind the final scores, so compare curves with each other and with the dashed line, which has "
        "training images in place of generated ones. Seeds are joined by their mean.",
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


def _table(results: Results, records: Sequence[tuple[Line, pd.DataFrame]], measure: str, features: str) -> Table:
    parts = {
        line.generator: frame[(frame["measure"] == measure) & (frame["features"] == features)]
        .set_index("images_seen")["value"]
        .sort_index()
        for line, frame in records
    }
    parts = {name: part for name, part in parts.items() if len(part)}
    ends = max(part.index.max() for part in parts.values())
    wanted = [ends * (number + 1) / SHOWN_POINTS for number in range(SHOWN_POINTS)]
    columns = [Column("Generator"), *(Column(f"{_thousands(images)} images") for images in wanted)]
    digits = 3 if measure == "inception_score" else 2
    real = results.progress.get("real", {}).get(f"{features}/{measure}")
    rows = [[Cell("real (training) images"), *[Cell(NOTHING if real is None else f"{real:.{digits}f}")] * SHOWN_POINTS]]
    for name, part in parts.items():
        row = [Cell(name)]
        for images in wanted:
            at = int(np.argmin(np.abs(part.index.to_numpy() - images)))
            near = abs(part.index[at] - images) <= 0.6 * ends / SHOWN_POINTS
            row.append(Cell(f"{part.iloc[at]:.{digits}f}" if near else NOTHING))
        rows.append(row)
    better = MEASURES[measure].better
    caption = (
        f"{title(measure, features, int(results.progress.get('n', 0)))} against training progress; {better} is better"
    )
    notes = (
        "Each number at the measured point nearest to the column's; on validation images, with fewer images than the "
        "final scores.",
    )
    return Table(f"progress-{measure}", caption, tuple(columns), (("", tuple(map(tuple, rows))),), notes)


def _thousands(images: float) -> str:
    return f"{images / 1000:.3g}k" if images >= 1000 else f"{images:.0f}"
