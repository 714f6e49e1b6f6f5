"""What a person sees while a session runs: bars and a growing table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from bench.report.tables import Table as LaidOut

LINE_SECONDS = 15.0
"""Without a terminal: at most one line of progress per job in this time."""


def results_table(folder: Path) -> Table | None:
    """The comparison so far, or None while there is nothing to show."""
    from bench.report.results import read_results
    from bench.report.tables import terminal_rows

    results = read_results(folder)
    columns, rows = terminal_rows(results)
    if not rows:
        return None
    flagged = any("†" in cell for row in rows for cell in row)
    told = ["† too few images (FD: n < 2d, so biased upwards; C_T: real ones): see the report"] if flagged else []
    told += [f"{name}: {entry['doubt']}" for name, entry in results.features.items() if entry.get("doubt")]
    table = Table(
        title=folder.name, caption="\n".join(told) or None, header_style="bold", row_styles=["", "dim"], pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def plain_table(laid_out: LaidOut) -> Table:
    """A table of the report for the terminal."""
    from rich.markup import escape

    caption = escape("\n".join(laid_out.notes)) or None
    table = Table(title=escape(laid_out.caption), caption=caption, header_style="bold", pad_edge=False)
    for index, column in enumerate(laid_out.columns):
        table.add_column(escape(str(column)), justify="left" if index == 0 else "right", overflow="fold")
    for _, rows in laid_out.sections:
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
    return table


def score_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The rows of `bench evaluate`: a table per kind of features, a line per measure, a column per set of images."""
    from bench.metrics.records import MEASURES

    tables = []
    for kind in dict.fromkeys(row["features"] for row in rows):
        own = [row for row in rows if row["features"] == kind]
        measures = list(dict.fromkeys(row["measure"] for row in own))
        table = Table(
            header_style="bold", pad_edge=False, title=f"features: {kind}" if kind else "of the images themselves"
        )
        if any(row["std"] is not None or row["lower"] is not None for row in own):
            table.caption = (
                "mean ± deviation over draws (floor: over halvings) [95 % interval over subjects of the real side]"
            )
        sets: dict[tuple[str, str, int, str], dict[str, str]] = {}
        for row in own:
            key = (row["set"], row["class"], row["n_generated"], row["flag"] or "")
            sets.setdefault(key, {})[row["measure"]] = _number(row)
        table.add_column("Measure", overflow="fold")
        for name, group, n, flag in sets:
            lines = [name, *([group] if group != "all" else []), f"n = {n:,}", *([flag] if flag else [])]
            table.add_column("\n".join(lines), justify="right", overflow="fold")
        for measure in measures:
            arrow = {"higher": " ↑", "lower": " ↓"}.get(MEASURES[measure].better, "")
            about = {row["about"] for row in own if row["measure"] == measure and row["set"] == "generated"} - {""}
            detail = f" ({about.pop()})" if len(about) == 1 else ""
            table.add_row(
                MEASURES[measure].title + arrow + detail, *(cells.get(measure, "") for cells in sets.values())
            )
        tables.append(table)
    return tables


def _number(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "–"
    spread = f" ± {row['std']:.2g}" if row["std"] is not None else ""
    ends = f"\n[{row['lower']:.3g}, {row['upper']:.3g}]" if row["lower"] is not None else ""
    return f"{row['mean']:.3g}{spread}{ends}"


class LineDisplay:
    """Line-wise and quiet: for logs, pipes and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def note(self, text: str) -> None:
        """Say a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say a line that should not be overlooked."""
        self.note(f"warning: {text}")

    def preparing(self, done: int, total: int) -> None:
        """Say that the data are being prepared, now and then."""
        self._throttled("data", f"preparing data: {done} of {total}", "preparing")

    def started(self, job: str, position: int, jobs: int) -> None:
        """A job begins."""
        self.note(f"[{position}/{jobs}] {job}: started")

    def progress(self, job: str, phase: str, fraction: float, detail: str) -> None:
        """A job is at this share of a phase; a negative share means unchanged."""
        share = f" {fraction:.0%}" if fraction > 0 else ""
        self._throttled(job, f"{job}: {phase}{share}  {detail}".rstrip(), phase)

    def ended(self, job: str, outcome: str) -> None:
        """A job is over."""
        self.note(f"{job}: {outcome}")

    def table(self, folder: Path) -> None:
        """The growing table is for terminals; here it is printed once, at the end."""

    def _throttled(self, key: str, text: str, phase: str) -> None:
        now = time.monotonic()
        last, last_phase = self._last.get(key, (now, phase))
        if key not in self._last or phase != last_phase:
            self._last[key] = (now, phase)
        elif now - last >= LINE_SECONDS:
            self._last[key] = (now, phase)
            self.note(text)


class LiveDisplay(LineDisplay):
    """Bars for the jobs at work and the table below them, redrawn in place."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._phases: dict[str, str] = {}
        self._positions: dict[str, str] = {}
        self._table: Table | None = None
        self._live = Live(self._bars, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def preparing(self, done: int, total: int) -> None:
        """The data are being prepared."""
        task = self._task("data")
        self._bars.update(task, description="preparing data", total=max(total, 1), completed=done)
        if done >= total:
            self._drop("data")

    def started(self, job: str, position: int, jobs: int) -> None:
        """A job begins."""
        self._positions[job] = f"{position}/{jobs} {job}"
        self._bars.update(self._task(job), description=f"{self._positions[job]}: starting", total=1.0)

    def progress(self, job: str, phase: str, fraction: float, detail: str) -> None:
        """A job is at this share of a phase; a negative share means unchanged."""
        task = self._task(job)
        if self._phases.get(job) != phase:
            self._phases[job] = phase
            self._bars.reset(task, total=1.0, description=f"{self._positions.get(job, job)}: {phase}", detail=detail)
        if fraction >= 0:
            self._bars.update(task, completed=fraction)
        if detail and (fraction < 0 or phase != "training"):
            self._bars.update(task, detail=detail)

    def ended(self, job: str, outcome: str) -> None:
        """A job is over."""
        self._drop(job)
        self.note(f"{job}: {outcome}")

    def table(self, folder: Path) -> None:
        """Redraw the table."""
        self._table = results_table(folder)
        self._live.update(Group(self._bars, self._table) if self._table else self._bars)

    def _task(self, key: str) -> TaskID:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(key, total=1.0, detail="")
        return self._tasks[key]

    def _drop(self, key: str) -> None:
        if key in self._tasks:
            self._bars.remove_task(self._tasks.pop(key))


def make_display(console: Console) -> LineDisplay:
    """Choose by whether a person is looking."""
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)
