"""The command line: parse, call, print. Imports what a command needs only when the command runs."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.commands_data import data_app, init
from bench.commands_run import DeviceOption, OutOption, SetOption, check, make_console, run

if TYPE_CHECKING:
    from collections.abc import Sequence


app = typer.Typer(
    name="bench",
    help="Compare generative families on medical images: same split, same budget, same scoring.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data_app, name="data")
app.command()(init)
app.command()(run)


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
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it: so do we
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@app.command()
def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="folder of a training, results/SUITE/runs/..., to be scored again")
    ] = None,
    real: Annotated[Path | None, typer.Option(help="real images: a folder (a folder per class), .npy or .npz")] = None,
    generated: Annotated[Path | None, typer.Option(help="generated images, likewise")] = None,
    train: Annotated[Path | None, typer.Option(help="the generator's training images: copies are looked for")] = None,
    features: Annotated[list[str] | None, typer.Option(help="repeat for several; see bench list features")] = None,
    measures: Annotated[list[str] | None, typer.Option(help="repeat for several; left out: all possible")] = None,
    n: Annotated[
        int | None, typer.Option(min=10, help="images per side and draw; left out: the smaller side's")
    ] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="left out: as many as share no image, 20 at most")] = None,
    image_size: Annotated[tuple[int, int] | None, typer.Option(help="height and width that both sides get")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 or 3, for both sides")] = None,
    window: Annotated[tuple[float, float] | None, typer.Option(help="raw values that become black and white")] = None,
    subject_pattern: Annotated[
        str | None, typer.Option(help="regular expression: the subject in a real file's name")
    ] = None,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option("--out", help="folder of what is written")] = Path("results/evaluate"),
    device: DeviceOption = "auto",
) -> None:
    """Score images from anywhere (--real, --generated), or a finished training under another protocol (RUN, --set)."""
    from bench.errors import InputError

    if (run is None) == (real is None and generated is None):
        raise InputError("name either a RUN, or --real and --generated")
    if run is not None:
        images_only = {"--train": train, "--image-size": image_size, "--channels": channels, "--window": window,
                       "--subject-pattern": subject_pattern}  # fmt: skip
        for option, value in images_only.items():
            if value is not None:
                raise InputError(f"{option}: for --real and --generated; a RUN has its suite's")
        changed = {"features": features, "measures": measures, "samples_per_draw": n, "draws": draws}
        added = [f"evaluation.{key}={json.dumps(value)}" for key, value in changed.items() if value]
        _rescore(run, [*(overrides or ()), *added], out, device)
        return
    if real is None or generated is None:
        raise InputError(f"--{'real' if real is None else 'generated'} is missing: scores compare two sets of images")
    if channels == 2:
        raise InputError("--channels 2: 1 (grey) or 3 (colour)")
    import torch

    from bench.display import make_display, score_tables
    from bench.plan import resolve_device
    from bench.registry import FEATURES
    from bench.score import DEFAULT_FEATURES, Request, check_writable, score, write_rows
    from bench.store import write_json
    from bench.suite import read_extractors

    extractors = read_extractors(overrides or ())
    for name in features or ():
        if name not in extractors:
            FEATURES.check(name, "--features: ")
    told: dict[str, Any] = {}
    request = Request(
        real=real, generated=generated, train=train, features=tuple(features or DEFAULT_FEATURES),
        measures=tuple(measures or ()), image_size=image_size, channels=channels, n=n, draws=draws, window=window,
        subject_pattern=subject_pattern, extractors=extractors,
    )  # fmt: skip
    check_writable(out)
    console = make_console()
    try:
        with make_display(console) as display:
            shown = partial(display.progress, "evaluate")
            rows = score(request, display.note, torch.device(resolve_device(device)), progress=shown, told=told)
    except KeyboardInterrupt:  # the command line library would end without a word
        typer.echo("bench: interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    for table in score_tables(rows):
        console.print(table)
    write_json(out / "features.json", told)
    console.print(f"results: {write_rows(rows, out)}; how features were taken: features.json beside it", soft_wrap=True)


def _rescore(run: Path, overrides: Sequence[str], out: Path, device: str) -> None:
    from bench.display import make_display, results_table
    from bench.rescore import rescore

    console = make_console()
    with make_display(console) as display:
        outcome = rescore(run, overrides, out, device=device, display=display)
    if (table := results_table(outcome.folder)) is not None:
        console.print(table)
    console.print(f"report: {outcome.folder / 'report.html'}", highlight=False, soft_wrap=True)
    if outcome.bad:
        raise typer.Exit(1)


app.command()(check)


@app.command(name="list")
def list_(
    what: Annotated[
        Literal["generators", "sources", "features", "measures", "tuning"] | None,
        typer.Argument(help="left out: all but tuning, the hyper-parameters that are searched"),
    ] = None,
) -> None:
    """List generators, data sources, features and measures, or what is tuned."""
    from bench.listing import listing

    for line in listing(what):
        typer.echo(line)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="results folders, such as results/mri_scanner; several are merged")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="folder of several merged; the first's name with -merged if left out")
    ] = None,
) -> None:
    """Rebuild tables, figures and report from the results alone; several folders of one suite become one."""
    from bench.errors import InputError
    from bench.report.page import write_report

    for folder in folders:
        if not (folder / "plan.json").is_file():
            raise InputError(f"{folder}: no results of a suite here (plan.json is missing)")
    folder = folders[0]
    if len(folders) > 1:
        from bench.report.merge import merge

        folder = out or folder.with_name(f"{folder.name}-merged")
        for conflict in merge(folders, folder):
            typer.echo(f"warning: {conflict}", err=True)
    elif out is not None:
        raise InputError(f"--out {out}: for several folders, which are merged; the report of one lies in it")
    write_report(folder)
    typer.echo(f"report: {folder / 'report.html'}")


@app.command(name="time")
def time_(folder: Annotated[Path, typer.Argument(help="a results folder, such as results/mri_scanner")]) -> None:
    """Show where a run's minutes went: per job and activity, in seconds."""
    from bench.timeline import table, timeline

    for line in table(timeline(folder)):
        typer.echo(line)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="results folder, or one with a results.csv")],
    second: Annotated[Path, typer.Argument(help="another, of the same data and split")],
    out: Annotated[Path | None, typer.Option("--out", help="also write everything: FILE.md or FILE.csv")] = None,
    classes: Annotated[bool, typer.Option("--classes", help="show every class too")] = False,
) -> None:
    """Two results side by side: every number both have, its difference, and what differs in how they were made."""
    from bench.display import plain_table
    from bench.errors import InputError
    from bench.report.beside import beside, differences, tables, to_file
    from bench.store import write_bytes

    if out is not None and out.suffix not in (".md", ".csv"):
        raise InputError(f"--out {out}: name a file that ends in .md or .csv")
    found = beside(first, second)
    console = make_console()
    for warning in found.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    for table in [differences(found), *tables(found, everything=classes)]:
        if table is not None:
            console.print(plain_table(table))
    if out is not None:
        write_bytes(out, to_file(found, out.suffix))
        console.print(f"written: {out}", highlight=False, soft_wrap=True)


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


@app.command(name="reader-study")
def reader_study(
    run: Annotated[Path, typer.Argument(help="folder of a training: results/SUITE/runs/...")],
    out: Annotated[
        Path, typer.Option("--out", help="folder for readers, made anew; the answers are written beside it")
    ],
    n: Annotated[int, typer.Option("--n", min=2, max=10_000, help="images in all, half of them real")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="of the choice and the order")] = 0,
) -> None:
    """Export a blinded study: real test images and generated ones, shuffled, with a sheet; the answers apart."""
    from bench.reader_study import export_study

    key = export_study(run, out, n=n, seed=seed)
    typer.echo(f"{n} images and sheets in {out}; the answers, which stay with you: {key}")


@app.command()
def ui(
    out: OutOption = Path("results"),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="left out: 5000, or a free one if that is taken")
    ] = None,
) -> None:
    """Open MLflow's pages on the results, for this machine alone, until Ctrl-C."""
    from bench.track import serve

    try:
        serve(out, port, typer.echo)
    except KeyboardInterrupt:  # the way to end it
        typer.echo("bench: the MLflow pages are closed")


@app.command()
def sync(
    folders: Annotated[list[Path], typer.Argument(help="results folder of a suite, such as results/mri_scanner")],
    uri: Annotated[
        str | None, typer.Option(help="any MLflow URI; left out: the suite's, or mlflow.db beside it")
    ] = None,
) -> None:
    """Send MLflow what it lacks of the results: after it was away, or to another server; twice is as good as once."""
    from bench.track import sync as bring

    for folder in folders:
        where, runs, new = bring(folder, uri)
        typer.echo(f"{folder}: {runs} runs in MLflow at {where}, {new} of them new or changed")


@app.command()
def schema() -> None:
    """Print the JSON schema of a suite file."""
    from bench.suite import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def doctor(
    suite: Annotated[Path | None, typer.Argument(help="a suite whose needs are looked at too")] = None,
    overrides: SetOption = None,
    out: OutOption = Path("results"),
    device: DeviceOption = "auto",
) -> None:
    """Look at this machine: packages, accelerator, memory, disk, weights, tracking; say what to mend."""
    from bench.doctor import examine

    findings = examine(out)
    if suite is not None:
        from bench.checkup import examine_suite

        findings += examine_suite(suite, overrides or (), out, device)
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'MEND'}  {finding.what}: {finding.found}")
        if finding.remedy:
            typer.echo(f"      -> {finding.remedy}")
    if any(not finding.ok for finding in findings):
        raise typer.Exit(1)
