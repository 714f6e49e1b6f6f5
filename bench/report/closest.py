"""Pictures of the generated images that lie closest to a training image, beside it: what a number for copies is made of.

None is drawn where patient images must not be shown, whatever lies in the folder: every pair holds one.
"""

from __future__ import annotations

import numpy as np

from bench.report.figures import DPI, PER_CLASS, Picture, finished_picture, montage, new_figure, plain, slug, tile_size
from bench.report.results import Results, Run
from bench.report.tables import Line, lines

ROWS = ("generated", "nearest training image")


def draw_closest(results: Results) -> list[Picture]:
    """Draw a picture for each generator whose closest pairs were stored; of several seeds, the one nearest to copying."""
    if not results.patient_images:
        return []
    return [picture for line in lines(results) if (picture := _draw(results, line)) is not None]


def _draw(results: Results, line: Line) -> Picture | None:
    stored = [(run, found) for run in line.runs if run.finished and (found := run.closest()) is not None]
    stored = [(run, found) for run, found in stored if len(found[0])]
    if not stored:
        return None
    run, (generated, training, ratios, threshold) = min(stored, key=lambda pair: float(pair[1][2].min()))
    height, width = tile_size(generated.shape[-2:])
    sheet = montage([generated[:PER_CLASS], training[:PER_CLASS]], height, width)
    h, w = sheet.shape[:2]
    left, top, bottom = 190, 6, 44
    full_width, full_height = left + w + 8, top + h + bottom
    figure = new_figure(results, full_width / DPI, full_height / DPI, constrained=False)
    axes = figure.add_axes((left / full_width, bottom / full_height, w / full_width, h / full_height))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks([h / 4, 3 * h / 4], [plain(name) for name in ROWS])
    shown = ratios[:PER_CLASS]
    axes.set_xticks([(index + 0.5) * (width + 2) for index in range(len(shown))], [f"{ratio:.2f}" for ratio in shown])
    axes.tick_params(length=0)
    caption = (
        f"Above: images made by {line.generator}{_seed(line, run)}. Below each: the training image it is nearest to. The "
        f"number is its distance to that one over the mean distance to the next fifty: a copy's is near 0. "
        f"{_judged(shown, threshold).capitalize()}: one validation image in a hundred lies there."
    )
    name = f"Closest to training images: {line.generator}"
    alt = (
        f"Pairs of an image made by {line.generator} and the training image nearest to it; {_judged(shown, threshold)}."
    )
    return finished_picture(figure, f"closest_{slug(line.generator)}", name, caption, alt)


def _judged(ratios: np.ndarray, threshold: float) -> str:
    near = int((ratios < threshold).sum())
    return f"{near} of these {len(ratios)} below {threshold:.2f}, where near copies begin"


def _seed(line: Line, run: Run) -> str:
    return f" (seed {run.seed}, of {len(line.runs)} the nearest to copying)" if len(line.runs) > 1 else ""
