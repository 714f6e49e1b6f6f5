"""A Ray cluster of several nodes on this machine, for tests: who is at work there, and how a node dies."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

NODE = {"num_cpus": 1, "memory": 500_000_000, "object_store_memory": 100_000_000}


class Nodes:
    """A head that runs nothing, and nodes with room for one job each."""

    def __init__(self, environments: Iterator[dict[str, str]]) -> None:
        from ray.cluster_utils import Cluster as Simulated

        self._cluster = Simulated(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        self._nodes: list[Any] = []
        self._environments = environments
        self.address = self._cluster.address

    def kill_under(self, process: psutil.Process) -> None:
        """Kill the node that this process runs on, as a machine dies."""
        above = {parent.pid for parent in process.parents()}
        (node,) = [node for node in self._nodes if {one.pid for _, one in node.live_processes()} & above]
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.remove(node)

    def add(self) -> None:
        """Bring up another node."""
        self._nodes.append(self._cluster.add_node(**NODE, env_vars=next(self._environments)))

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextlib.contextmanager
def simulated(count: int, environments: Iterator[dict[str, str]] | None = None) -> Iterator[Nodes]:
    """A cluster with so many nodes, each with the next of these additions to its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else all else on this machine goes first
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Nodes(environments or itertools.repeat({}))
        try:
            for _ in range(count):
                nodes.add()
            yield nodes
        finally:
            nodes.shutdown()


def jobs_in(folder: Path) -> list[psutil.Process]:
    """The processes of the jobs at work below a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "bench.run" in line and line[-1].startswith(str(folder)):
            found.append(process)
    return found


def at_work(out: Path) -> dict[str, psutil.Process]:
    """Row -> the process of its training, of those that have left a checkpoint."""
    found = {}
    for process in jobs_in(out):
        try:
            run = Path(process.cmdline()[-1]).parent
        except psutil.Error:
            continue
        if (run / "unfinished.safetensors").exists():
            found[run.name.rsplit("-seed", 1)[0]] = process
    return found


def first_at_work(out: Path, command, *, other_than: str = "") -> tuple[str, psutil.Process]:
    """Wait for a training that has left a checkpoint; return its row and process."""
    until = time.monotonic() + 400
    while time.monotonic() < until and command.poll() is None:
        for row, process in at_work(out).items():
            if row != other_than:
                return row, process
        time.sleep(0.02)
    raise AssertionError("no training has left a checkpoint")


def told(folder: Path, row: str, kind: str, where: str = "runs/{}-*") -> list[dict[str, Any]]:
    """The events of one kind that a row's jobs have told."""
    paths = folder.glob(f"{where.format(row)}/events.jsonl")
    events = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [event for event in events if event["type"] == kind]


def check_both_losses(said: str, folder: Path, node_under: str, process_of: str) -> None:
    """One row lost its node and one its process: both were told of, placed again, and went on from a checkpoint."""
    assert "Traceback" not in said
    assert f"{node_under} seed 0: lost: its node or its worker is gone" in said
    assert f"{process_of} seed 0: lost: its process was killed" in said
    for row in (node_under, process_of):
        assert told(folder, row, "resumed")[-1]["step"] > 0, "it went on from a checkpoint"
        assert len(told(folder, row, "placed")) >= 2
