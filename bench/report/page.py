"""The report: the page, and all files.

Everything is derived from the results folder and written atomically; running it twice gives the same bytes. What may be
said is decided in `bench.report.verdict`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from bench.report.closest import draw_closest
from bench.report.cost import draw_quality_cost
from bench.report.digest import paper_table
from bench.report.faults import fault_tables
from bench.report.figures import Picture, draw_all, style, withheld
from bench.report.interpolations import draw_interpolations
from bench.report.latex import to_latex
from bench.report.methods import methods
from bench.report.pairs import left_out, pair_tables, pairs_frame
from bench.report.progress import draw_progress, progress_tables
from bench.report.protocol import detail_tables, environments, protocol
from bench.report.ranking import draw_ranking
from bench.report.recognition import recognition_tables
from bench.report.render import to_markdown
from bench.report.reported import HEADING as REPORTED
from bench.report.reported import reported_tables
from bench.report.results import Results, read_results, results_frame
from bench.report.tables import (
    Table,
    class_summary,
    class_tables,
    deviation_table,
    first_distance,
    further_table,
    main_table,
    summary_table,
)
from bench.report.translators import draw_translations, translator_tables
from bench.report.tuning import draw_tuning, trial_table, tuning_tables, tuning_warnings
from bench.report.utility import utility_tables
from bench.report.verdict import checks, conclusion, ranks, warnings
from bench.store import write_bytes

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


def write_report(folder: Path) -> ReportSummary:
    """Rebuild every table, figure and the page from a results folder alone, each file whole or not at all.

    Writes results.csv (long form), table.csv (a row per generator, every number), table_by_class.csv, pairs.csv (families
    two by two), table.md, table.html and table.tex (main table, pairs, deviations, further measures, distances by class),
    methods.txt (a paragraph ready to paste), figures/*.svg and *.png, report.html.
    Figures of an earlier report that are no longer drawn are removed.

    Raises:
        InputError: the folder holds no results that can be read.
        BenchError: a file can't be written.
    """
    results = read_results(folder)
    tables = all_tables(results)
    pictures = draw_all(results)
    with style():
        charts = [draw_ranking(results), draw_progress(results), draw_quality_cost(results)]
        pictures += [picture for picture in charts if picture] + draw_translations(results)
        pictures += draw_closest(results) + draw_interpolations(results) + draw_tuning(results)
    page = render_page(results, pictures)
    contents: dict[str, bytes] = {
        "results.csv": results_frame(results).to_csv(index=False, lineterminator="\n").encode(),
        "table.csv": summary_table(results).to_csv(index=False, lineterminator="\n").encode(),
        "table_by_class.csv": class_summary(results).to_csv(index=False, lineterminator="\n").encode(),
        "pairs.csv": pairs_frame(results).to_csv(index=False, lineterminator="\n").encode(),
        "table.md": to_markdown(tables).encode(),
        "table.html": _template(bare=True, title=f"{results.name}: tables", tables=tables).encode(),
        "table.tex": to_latex([paper_table(results, ranks(results)), *tables]).encode(),
        "methods.txt": (" ".join(methods(results)) + "\n").encode(),
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
        warnings=(*warnings(results), *tuning_warnings(results)),
        finished=sum(run.finished for run in results.runs),
        failed=sum(run.status in ("failed", "diverged", "interrupted") for run in results.runs),
        pending=sum(run.status == "pending" for run in results.runs),
    )


def all_tables(results: Results) -> list[Table]:
    """Every table of the report, those that are quoted from other sources last."""
    more = [table for table in (deviation_table(results), further_table(results)) if table]
    tables = [main_table(results, ranks(results)), *pair_tables(results), *more, *class_tables(results)]
    return [
        *tables,
        *recognition_tables(results),
        *fault_tables(results),
        *utility_tables(results),
        *tuning_tables(results),
        *progress_tables(results),
        *translator_tables(results),
        *reported_tables(results),
    ]


def render_page(results: Results, pictures: Sequence[Picture]) -> str:
    """Return report.html: one file that asks nothing of the network."""
    grids = [picture for picture in pictures if picture.name.startswith(("samples_", "closest_", "interpolations_"))]
    charts = {picture.name: picture for picture in pictures if picture not in grids}
    sources = {picture.name: _chart_source(picture) for picture in charts.values()}
    room = PAGE_BYTES - sum(map(len, sources.values())) - len(results.suite_text) - 500_000
    sources |= {picture.name: _grid_source(picture.png, room // max(1, len(grids))) for picture in grids}
    return _template(
        bare=False,
        title=results.name,
        results=results,
        conclusion=conclusion(results),
        warnings=[*warnings(results), *tuning_warnings(results)],
        main=main_table(results, ranks(results)),
        pairs=pair_tables(results),
        unpaired=left_out(results, first_distance(results)),
        deviations=deviation_table(results),
        further=further_table(results),
        by_class=[*class_tables(results), *recognition_tables(results)],
        progress=progress_tables(results),
        utility=utility_tables(results),
        tuning=tuning_tables(results),
        trials=trial_table(results),
        translation=translator_tables(results),
        reported=reported_tables(results),
        reported_heading=REPORTED,
        charts=charts,
        grids=[picture for picture in grids if picture.name.startswith("samples_")],
        closest=[picture for picture in grids if picture.name.startswith("closest_")],
        interpolations=[picture for picture in grids if picture.name.startswith("interpolations_")],
        methods=methods(results),
        sources=sources,
        withheld=[line.generator for line in withheld(results)],
        checks=checks(results),
        faults=fault_tables(results),
        protocol=protocol(results),
        details=detail_tables(results),
        environments=environments(results),
        failures=[run for run in (*results.runs, *results.translators) if not run.finished],
    )


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
