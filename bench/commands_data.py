"""The commands about data: `bench data prepare`, `bench data show`, `bench init`. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Prepare a suite's data, or look at them.", no_args_is_help=True, rich_markup_mode=None)

SuiteArgument = Annotated[Path, typer.Argument(help="a suite file, or the name of a shipped suite")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="override a key: data.root=DIR")]


@data_app.command()
def prepare(suite: SuiteArgument, overrides: SetOption = None) -> None:
    """Read, check and store the data once; later commands reuse them."""
    from rich.console import Console

    from bench.display import make_display
    from bench.divide import remarks
    from bench.prepared import prepare as prepared_suite
    from bench.suite import load_suite

    console = Console()
    with make_display(console) as display:
        found = prepared_suite(load_suite(suite, overrides or ()), Path("results"), "cpu", display.preparing)
    data, split = found.data, found.split
    parts = ", ".join(f"{name} {len(own):,}" for name, own in split.parts().items())
    typer.echo(
        f"{len(data):,} images {data.shape} of {data.num_classes} classes, {len(data.skipped)} left out; {parts}"
    )
    for note in remarks(data, split, found.duplicates):
        typer.echo(f"warning: {note}")
    typer.echo(f"prepared: {found.data_folder}")


@data_app.command()
def show(
    suite: SuiteArgument,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder of pictures; results/SUITE/data if left out")
    ] = None,
) -> None:
    """Count by class, part and subject; show intensities, a contact sheet, duplicates and what was left out."""
    from rich.console import Console

    from bench.display import make_display
    from bench.overview import counts_table, duplicate_lines, skipped_lines, write_pictures
    from bench.prepared import prepare as prepared_suite
    from bench.suite import load_suite

    console = Console()
    if not console.is_terminal:
        console.width = 160
    with make_display(console) as display:
        found = prepared_suite(load_suite(suite, overrides or ()), Path("results"), "cpu", display.preparing)
    console.print(counts_table(found))
    for line in (*duplicate_lines(found), *skipped_lines(found)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for path in write_pictures(found, out or Path("results") / found.suite.name / "data"):
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def init(
    folder: Annotated[Path, typer.Argument(help="where the images, volumes or arrays lie")],
    out: Annotated[Path | None, typer.Option("--out", help="the suite file; NAME.yaml here if left out")] = None,
) -> None:
    """Look at a folder and write a suite for it that runs, with what was seen as comments."""
    from bench.errors import InputError
    from bench.guess import guess, suite_name
    from bench.store import write_bytes
    from bench.suite import load_suite

    target = out or Path(f"{suite_name(folder)}.yaml")
    if target.exists():
        raise InputError(f"{target}: exists already; name another file with --out")
    text, told = guess(folder)
    write_bytes(target, text.encode())
    try:
        load_suite(target)
    except InputError:
        target.unlink()
        raise
    for line in told:
        typer.echo(line)
    typer.echo(f"written: {target}; look at it, then: bench data show {target}")
