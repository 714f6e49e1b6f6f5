"""Quality against what it costs: distance against training and sampling time, with the families that none beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bench.report.figures import (
    INK,
    Picture,
    finished_picture,
    floor_lines,
    logarithmic,
    logarithmic_from,
    looks,
    new_figure,
    plain,
)
from bench.report.results import Key, Results
from bench.report.tables import Number, duration, first_distance, lines, number_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

COSTS = {"training_seconds": "training time", "seconds_per_1000_samples": "time for 1,000 images"}
"""What stands on the horizontal axis, a panel each."""
TIMES = (
    (1e-3, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000),
    (0.002, 0.005, 0.02, 0.05, 0.2, 0.5, 2, 5, 20, 30, 120, 300, 1200, 1800, 7200, 18_000, 72_000, 180_000),
    (15, 25, 40, 50, 90, 150, 180, 210, 240, 420, 480, 540, 720, 900, 1500, 2400, 3000, 5400, 9000, 10_800, 14_400),
)
"""Seconds at which a time axis may have ticks: always, where it is short, and where it is very short."""


class Point(NamedTuple):
    """A row of the table in the plane of cost and quality; both are better when lower."""

    name: str
    cost: float
    number: Number
    role: str


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those that no other beats or equals in both coordinates, lower being better, by the first coordinate."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(set(points)):
        if not front or value < front[-1][1]:
            front.append((cost, value))
    return front


def draw_quality_cost(results: Results) -> Picture | None:
    """A panel for each cost that was measured: distance against it, the Pareto front of the families as a line."""
    first = first_distance(results)
    if first is None:
        return None
    panels = [(label, found) for cost, label in COSTS.items() if (found := _points(results, first, cost))]
    if not panels:
        return None
    figure = new_figure(results, 11.5 if len(panels) > 1 else 8, 4.6)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    told, fronts = [], []
    for axes, (label, points) in zip(grid.flat, panels, strict=True):
        front = _panel(axes, results, first, points)
        axes.set_xlabel(label)
        unbeaten = [point.name for point in points if (point.cost, point.number.mean) in front and _competes(point)]
        fronts.append(f"{label}: {', '.join(unbeaten) or 'none'}")
        told.append(f"{label}: " + "; ".join(f"{p.name} {duration(p.cost)}, FD {p.number.mean:.4g}" for p in points))
    grid.flat[0].set_ylabel(str(number_name(results, first)))
    for axes, (_, points) in zip(grid.flat, panels, strict=True):
        _label_points(figure, axes, points)
    return finished_picture(
        figure,
        "quality_cost",
        "Quality against cost",
        f"{number_name(results, first)} against time; better to the lower left. Vertical: 95 % intervals. Grey line: the "
        f"Pareto front, families that no other beats in both; {'; '.join(fronts)}. Grey marks: controls. Times are of "
        "the machines named below, and comparable only where nothing else ran.",
        f"Scatter plot of distance against time. {' '.join(f'{text}.' for text in told)}",
    )


def _competes(point: Point) -> bool:
    return point.role == "family"


def _points(results: Results, first: Key, cost: str) -> list[Point]:
    found = []
    for line in lines(results):
        seconds, number = line.costs.get(cost), line.numbers.get(first)
        if line.role != "floor" and seconds is not None and number is not None and math.isfinite(number.mean):
            found.append(Point(line.generator, max(seconds, 1e-3), number, line.role))
    return found


def _panel(axes: Axes, results: Results, first: Key, points: Sequence[Point]) -> list[tuple[float, float]]:
    from matplotlib.ticker import MaxNLocator

    look, least = looks(results), logarithmic_from(point.number.mean for point in points)
    for point in points:
        colour, marker = look[point.name]
        low, high = point.number.lower, point.number.upper
        if low is not None and high is not None:
            axes.vlines(point.cost, max(low, least), high, color=colour, linewidth=1.2, alpha=0.7)
        axes.plot(
            point.cost,
            point.number.mean,
            marker,
            color=colour,
            markersize=8.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    floor_lines(axes, results, first, vertical=False, least=least)
    if math.isfinite(least):
        logarithmic(axes, "y")
    front = pareto([(point.cost, point.number.mean) for point in points if _competes(point)])
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1, zorder=0, label="Pareto front")
    axes.set_xscale("log")
    axes.margins(0.14, 0.12)
    shortest, longest = axes.get_xlim()
    ticks: list[float] = []
    for times in TIMES:
        ticks += [tick for tick in times if shortest <= tick <= longest] if len(ticks) < 3 else []
    if len(ticks) < 2:
        ticks = [tick for tick in MaxNLocator(4).tick_values(shortest, longest) if shortest <= tick <= longest]
    axes.set_xticks(ticks, [duration(tick).replace(" 00 s", "").replace(" 00 min", "") for tick in ticks])
    axes.set_xticks([], minor=True)
    handles, texts = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, [plain(text) for text in texts], fontsize=8, frameon=False, loc="best")
    return front


def _label_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write each name beside its point, at the nearest place that is free, with a line to it from farther off."""
    places_of = [(point.name, point.cost, point.number.mean, point.role) for point in points]
    figure.canvas.draw()  # fixes the layout, so that extents are known
    centres = [axes.transData.transform((x, y)) for _, x, y, _ in places_of]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in centres]
    frame = axes.get_window_extent()
    around = ((1, 0), (-1, 0), (0.9, 0.9), (-0.9, 0.9), (0.9, -0.9), (-0.9, -0.9), (0, 1.3), (0, -1.3))
    places = [(radius * dx, radius * dy) for radius in (9, 20, 34, 50) for dx, dy in around]
    for name, x, y, _ in places_of:
        found: list[tuple[float, int, tuple[float, float, float, float]]] = []
        for number, (dx, dy) in enumerate(places):
            note = _note(axes, name, x, y, dx, dy)
            box = note.get_window_extent()
            note.remove()
            crossed = sum(box.x0 < x1 and box.x1 > x0 and box.y0 < y1 and box.y1 > y0 for x0, y0, x1, y1 in taken)
            outside = box.x1 > frame.x1 or box.x0 < frame.x0 or box.y1 > frame.y1 or box.y0 < frame.y0
            found.append((crossed + 10 * outside, number, (box.x0, box.y0, box.x1, box.y1)))
            if not crossed and not outside:
                break
        _, number, box_taken = min(found)
        taken.append(box_taken)
        _note(axes, name, x, y, *places[number])
        if number >= len(around):
            line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
            axes.annotate("", (x, y), places[number], textcoords="offset points", arrowprops=line)


def _note(axes: Axes, name: str, x: float, y: float, dx: float, dy: float) -> Annotation:
    """Write a name at an offset in points from a place in the data."""
    side = "left" if dx > 0 else "right" if dx < 0 else "center"
    return axes.annotate(
        plain(name), (x, y), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=8.5, color=INK
    )
