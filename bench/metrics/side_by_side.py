"""Small networks trained beside each other, a thread each: their steps are too small to be shared among threads.

So the same seed and packages give the same bits on the CPU, however many threads there are. Knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def side_by_side(
    task: Callable[[Job], Result], jobs: Sequence[Job], *, device: torch.device, threads: int | None = None
) -> list[Result]:
    """Run a task on every job, gradients recorded, and return the results in the jobs' order.

    Args:
        task: called once for each job; on the CPU, in a thread in which torch uses one thread.
        jobs: what to call it with.
        device: where the networks are; elsewhere than on the CPU one follows the other.
        threads: how many run at once on the CPU; torch's number of threads if left out.
    """
    before = torch.get_num_threads()

    def alone(job: Job) -> Result:
        if device.type == "cpu":
            torch.set_num_threads(1)  # a fresh thread starts with its own number
        with torch.enable_grad():
            return task(job)

    workers = (threads or before) if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(max(1, min(workers, len(jobs)))) as pool:
            return list(pool.map(alone, jobs))
    finally:
        torch.set_num_threads(before)
