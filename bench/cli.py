"""The command line: parse, call, print. Imports what a command needs only when the command runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="bench",
    help="Compare generative families on medical images: same split, same budget, same scoring.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

WIDTH_OF_FILES = 160
"""Columns of a table that no terminal bounds."""

SuiteArgument = Annotated[Path, typer.Argument(help="a suite file, or the name of a shipped suite")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="override a key: evaluation.draws=5")]
OutOption = Annotated[Path, typer.Option("--out", help="folder of all results")]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="where to train")]


def _version(value: bool) -> None:
    if value:
        from bench import __version__

        typer.echo(f"medgenbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_FILES
    return console


@app.command()
def run(
    suite: SuiteArgument,
    overrides: SetOption = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="run only this row")] = None,
    out: OutOption = Path("results"),
    workers: Annotated[int, typer.Option(min=1, help="jobs at once; costs are comparable only with 1")] = 1,
    device: DeviceOption = "auto",
) -> None:
    """Train, score and report; what is finished is not computed again."""
    from bench import session
    from bench.display import make_display, results_table
    from bench.suite import load_suite, resolve

    checked = resolve(load_suite(suite, overrides or ()), suite)
    console = _console()
    try:
        with make_display(console) as display:
            outcome = session.run(checked, out, only=only or (), workers=workers, device=device, display=display)
    except KeyboardInterrupt:  # the command line library would end without a word
        typer.echo("bench: interrupted; the same command continues", err=True)
        raise typer.Exit(130) from None
    if (table := results_table(outcome.folder)) is not None:
        console.print(table)
    console.print(f"report: {outcome.folder / 'report.html'}", highlight=False, soft_wrap=True)
    for name, reason in outcome.bad.items():
        console.print(f"{name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if outcome.bad:
        raise typer.Exit(1)


@app.command()
def check(
    suite: SuiteArgument, overrides: SetOption = None, out: OutOption = Path("results"), device: DeviceOption = "auto"
) -> None:
    """Validate a suite, show what it would do, estimate time and disk; run nothing."""
    from bench import session
    from bench.estimate import estimate
    from bench.suite import load_suite, resolve

    console = _console()
    checked = resolve(load_suite(suite, overrides or ()), suite)
    prepared = session.prepare(checked, out, device)
    data, split, plan = prepared.data, prepared.split, prepared.plan
    console.print(
        f"{checked.name}: {len(data):,} images {data.shape}, {data.title}; training {len(split.train):,}, "
        f"validation {len(split.validation):,}, test {len(split.test):,} (by {split.by})",
        highlight=False,
    )
    if split.leaking_subjects:
        console.print(f"warning: {split.leaking_subjects} subjects have images on both sides", highlight=False)
    rows = estimate(prepared)
    for row in rows.rows:
        console.print(f"  {row.name:<32} {row.state:<22} {row.text}", highlight=False)
    console.print(
        f"estimated: {rows.minutes:.1f} minutes, {rows.megabytes:,.0f} MB in {plan.store.folder}", highlight=False
    )


@app.command(name="list")
def list_(
    what: Annotated[
        Literal["generators", "sources", "features", "measures"] | None, typer.Argument(help="left out: all")
    ] = None,
) -> None:
    """List generators, data sources, features and measures."""
    from bench.listing import listing

    for line in listing(what):
        typer.echo(line)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="results folder of a suite, such as results/mri_scanner")],
) -> None:
    """Rebuild tables, figures and report from the results alone."""
    from bench.errors import InputError
    from bench.report.page import write_report

    for folder in folders:
        if not (folder / "plan.json").is_file():
            raise InputError(f"{folder}: no results of a suite here (plan.json is missing)")
        write_report(folder)
        typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="folder of a training: results/SUITE/runs/...")],
    out: Annotated[Path, typer.Option("--out", help="folder for the images; made anew")],
    n: Annotated[int, typer.Option("--n", min=1, max=1_000_000, help="number of images")] = 16,
    class_name: Annotated[
        str | None, typer.Option("--class", help="class to generate; all in turn if left out")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="other seeds give other images")] = 0,
) -> None:
    """Generate images from a finished training and write them as PNG."""
    from bench.sampling import export

    written = export(run, out, n=n, class_name=class_name, seed=seed)
    typer.echo(f"{written} images in {out}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a suite file."""
    from bench.suite import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def doctor(out: OutOption = Path("results")) -> None:
    """Look at this machine: packages, accelerator, memory, disk, weights; say what to mend."""
    from bench.doctor import examine

    findings = examine(out)
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'MEND'}  {finding.what}: {finding.found}")
        if finding.remedy:
            typer.echo(f"      -> {finding.remedy}")
    if any(not finding.ok for finding in findings):
        raise typer.Exit(1)
