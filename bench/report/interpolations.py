"""Pictures of walks through latent space, one image to the next: whether what lies between draws looks like the data.

They join draws of the model and no encodings of real images; where patient images must not be shown, rows whose draws
may be patients are left out here as everywhere (`bench.report.figures.withheld`).
"""

from __future__ import annotations

from bench.report.figures import (
    DPI,
    Picture,
    finished_picture,
    montage,
    new_figure,
    plain,
    slug,
    tile_size,
    withheld,
)
from bench.report.results import Results
from bench.report.tables import Line, lines


def draw_interpolations(results: Results) -> list[Picture]:
    """Draw a picture for each generator whose walks were stored; those of its first finished seed."""
    hidden = withheld(results)
    return [picture for line in lines(results) if line not in hidden and (picture := _draw(results, line)) is not None]


def _draw(results: Results, line: Line) -> Picture | None:
    run = next((run for run in line.runs if run.finished), None)
    walks = run.interpolations() if run else None
    if walks is None or not len(walks.pixels):
        return None
    names = [results.class_names[label] for label in walks.labels] if line.conditional else []
    height, width = tile_size(walks.pixels.shape[-2:])
    sheet = montage(list(walks.pixels), height, width)
    h, w = sheet.shape[:2]
    left = 12 + (10 + 9 * max(map(len, names)) if names else 0)
    full_width, full_height = left + w + 8, 6 + h + 22
    figure = new_figure(results, full_width / DPI, full_height / DPI, constrained=False)
    axes = figure.add_axes((left / full_width, 22 / full_height, w / full_width, h / full_height))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([(row + 0.5) * h / len(names) for row in range(len(names))], [plain(name) for name in names])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    kept = "its class kept" if names else "without classes"
    return finished_picture(
        figure,
        f"interpolations_{slug(line.generator)}",
        f"Latent space of {line.generator}",
        f"{line.generator}: each row goes from one draw to another along a great circle of the latent space, {kept}; not "
        "selected. Jumps or blurred middles tell of holes between what was learnt.",
        f"Grid of images made by {line.generator}: rows that change step by step from one generated image to another.",
    )
