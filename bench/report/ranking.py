"""The ranking as a picture: every row's distance with its interval, floors as bands, ranks where they may be named."""

from __future__ import annotations

import math

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
from bench.report.results import Results
from bench.report.tables import Line, decimals, first_distance, lines, number_name, signed
from bench.report.verdict import conclusion, ranks


def draw_ranking(results: Results) -> Picture | None:
    """Draw a row for each generator, in the table's order; None without any distance."""
    first = first_distance(results)
    shown = [line for line in lines(results) if line.role != "floor" and _finite(line, first)]
    if first is None or not shown:
        return None
    look, places = looks(results), ranks(results)
    least = logarithmic_from(line.numbers[first].mean for line in shown)
    figure = new_figure(results, 8.6, 0.9 + 0.32 * len(shown))
    axes = figure.subplots()
    for row, line in enumerate(shown):
        number, (colour, marker) = line.numbers[first], look[line.generator]
        if number.lower is not None and number.upper is not None:
            axes.hlines(row, max(number.lower, least), number.upper, color=colour, linewidth=2.2, alpha=0.8)
        axes.plot(number.mean, row, marker, color=colour, markersize=8, markeredgecolor="white", markeredgewidth=0.6)
    floors = floor_lines(axes, results, first, vertical=True, least=least)
    if math.isfinite(least):
        logarithmic(axes, "x")
    names = [
        f"{places[line.generator]}.  {line.generator}" if line.generator in places else line.generator for line in shown
    ]
    axes.set_yticks(range(len(shown)), [plain(name) for name in names])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(str(number_name(results, first)))
    axes.tick_params(colors=INK)
    digits = decimals(line.numbers[first] for line in shown)
    told = "; ".join(f"{line.generator} {signed(line.numbers[first].mean, digits)}" for line in shown)
    ranked = "Numbers before names: ranks, shared by what is not told apart." if places else conclusion(results)
    return finished_picture(
        figure,
        "ranking",
        "Distance with 95 % intervals",
        f"{number_name(results, first)}, lower is better; line: 95 % interval. {ranked} {floors}Grey: controls.",
        f"Dot plot of the distance with its interval, a row per generator: {told}.",
    )


def _finite(line: Line, first: object) -> bool:
    number = next((number for key, number in line.numbers.items() if key == first), None)
    return number is not None and math.isfinite(number.mean)
