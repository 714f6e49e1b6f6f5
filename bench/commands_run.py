"""The commands that run a suite, or say what that would take: `bench run`, `bench check`. Parse, call, print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from bench.estimate import RowEstimate
    from bench.executors.local import Local
    from bench.executors.ray import Cluster
    from bench.prepared import Prepared
    from bench.suite import Suite

WIDTH_OF_FILES = 160
"""Columns of a table that no terminal bounds."""

SuiteArgument = Annotated[Path, typer.Argument(help="a suite file, or the name of a shipped suite")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="override a key: evaluation.draws=5")]
OutOption = Annotated[Path, typer.Option("--out", help="folder of all results")]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="where to train")]

ExecutorOption = Annotated[
    Literal["local", "ray"],
    typer.Option("--executor", help="where jobs run: on this machine or on a Ray cluster's nodes"),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="the Ray cluster's head, host:port, or auto; left out: RAY_ADDRESS, or one started here"
    ),
]

ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share",
        metavar="ADDRESS",
        help="Ray: pass data and results through s3://bucket/x or the like; left out: nodes share a file system",
    ),
]


def make_console(stderr: bool = False) -> Console:
    """Where results are printed; wide where no terminal bounds it."""
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_FILES
    return console


def _executor(name: str, address: str | None, share: str | None, workers: int | None) -> Local | Cluster:
    from bench.errors import InputError

    if name == "ray":
        from bench.executors.ray import Cluster

        return Cluster(address, workers, share)
    if address is not None:
        raise InputError(f"--address {address}: of a Ray cluster; add --executor ray")
    if share is not None:
        raise InputError(f"--share {share}: for the nodes of a Ray cluster; add --executor ray")
    from bench.executors.local import Local

    return Local(workers or 1)


def _there(suite: Suite, where: Local | Cluster, device: str) -> tuple[Suite, Literal["auto", "cpu", "cuda"]]:
    """Settle what depends on where jobs run: the device, and on it the precision, since this machine may have no GPU.

    Raises:
        InputError: the suite's studies or files can't be had there, or no node has room for its jobs.
    """
    from bench.executors.local import Local
    from bench.plan import resolve_precision
    from bench.prepared import claim_of
    from bench.studies import refuse_apart

    if where.apart:
        refuse_apart(suite.tuning, suite.paths)
    if suite.tuning and "://" in suite.tuning.storage:
        from bench.tune import reach

        reach(suite.tuning.storage)
    found = cast("Literal['auto', 'cpu', 'cuda']", where.device(device))
    if isinstance(where, Local):
        return suite, found
    claim = claim_of(suite, found)
    where.slots(claim)
    if suite.precision == "auto" and found == "cuda":
        precision = where.call(resolve_precision, "auto", found, claim=claim)
        suite = suite.model_copy(update={"precision": precision})
    return suite, found


def run(
    suite: SuiteArgument,
    overrides: SetOption = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="run only this row")] = None,
    out: OutOption = Path("results"),
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="jobs at once, 1 if left out (Ray: as many as there is room for); costs are comparable only with 1",
        ),
    ] = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    share: ShareOption = None,
    device: DeviceOption = "auto",
    wait: Annotated[bool, typer.Option("--wait", help="wait for another run that is at work in this folder")] = False,
) -> None:
    """Train, score and report; what is finished is not computed again, what was interrupted goes on."""
    try:
        from bench import session
        from bench.display import make_display, results_table
        from bench.suite import load_suite, resolve

        checked = resolve(load_suite(suite, overrides or ()), suite)
        console = make_console()
        with _executor(executor, address, share, workers) as where, make_display(console) as display:
            there, device = _there(checked, where, device)
            how: dict[str, Any] = {"only": only or (), "executor": where, "device": device, "wait": wait}
            outcome = session.run(there, out, display=display, **how)
    except KeyboardInterrupt:  # the command line library would end without a word
        typer.echo("bench: interrupted; what is finished stays, and the same command continues", err=True)
        raise typer.Exit(130) from None
    if (table := results_table(outcome.folder)) is not None:
        console.print(table)
    console.print(f"report: {outcome.folder / 'report.html'}", highlight=False, soft_wrap=True)
    for name, reason in outcome.bad.items():
        console.print(f"{name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if outcome.bad:
        raise typer.Exit(1)


def check(
    suite: SuiteArgument,
    overrides: SetOption = None,
    out: OutOption = Path("results"),
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    share: ShareOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Validate a suite, show what it would do, estimate time and disk; run nothing."""
    from bench.prepared import prepare
    from bench.suite import load_suite, resolve

    checked = resolve(load_suite(suite, overrides or ()), suite)
    try:
        with _executor(executor, address, share, None) as where:
            there, device = _there(checked, where, device)
            _check(prepare(there, out, device), where)
    except KeyboardInterrupt:  # the command line library would end without a word
        typer.echo("bench: interrupted", err=True)
        raise typer.Exit(130) from None


def _check(prepared: Prepared, where: Local | Cluster) -> None:
    from dataclasses import replace

    from bench.divide import remarks
    from bench.estimate import estimate, timed_on, to_time
    from bench.executors.local import Local
    from bench.prepared import claim_of, need_of_largest

    console, checked = make_console(), prepared.suite
    data, split, plan = prepared.data, prepared.split, prepared.plan
    console.print(
        f"{checked.name}: {len(data):,} images {data.shape}, {data.title}; training {len(split.train):,}, "
        f"validation {len(split.validation):,}, test {len(split.test):,} (by {split.by})",
        highlight=False,
    )
    for note in remarks(data, split, prepared.duplicates):
        console.print(f"warning: {note}", highlight=False, markup=False)

    def tell(row: RowEstimate) -> None:
        console.print(f"  {row.name:<32} {row.state:<22} {row.text}", highlight=False)

    if isinstance(where, Local):
        rows = estimate(prepared, tell)
    else:
        claim = claim_of(checked, plan.device)
        at_once = where.slots(claim, need_of_largest(prepared))
        wanted = replace(plan, rows=to_time(prepared))
        times = where.call(timed_on, checked, split, wanted, claim=claim, data=prepared.data_folder)
        rows = estimate(prepared, tell, times)
        count = len(where.nodes())
        console.print(
            f"on the cluster: {at_once} jobs at once on {count} node{'' if count == 1 else 's'}, "
            f"{rows.minutes_of(at_once):.1f} minutes if every node is as fast as the one that was timed",
            highlight=False,
        )
    each = "" if isinstance(where, Local) else " of jobs one by one"
    console.print(
        f"estimated: {rows.minutes:.1f} minutes{each}, {rows.megabytes:,.1f} MB in {plan.store.folder}, "
        f"{rows.memory / 1e9:.1f} GB of memory for the largest job",
        highlight=False,
    )
