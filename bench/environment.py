"""What a reader must know of the machine and the packages to judge or to repeat a result."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench import __version__

PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scikit-image")


def settle(threads: int) -> list[str]:
    """Give this process the settings of torch that belong to an id; return which ones were different."""
    different = []
    if torch.get_num_threads() != threads:
        different.append("number of threads")
        torch.set_num_threads(threads)
    if torch.get_default_dtype() != torch.float32:
        different.append("default depth of numbers")
        torch.set_default_dtype(torch.float32)
    if not torch.are_deterministic_algorithms_enabled():
        different.append("choice of deterministic algorithms")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if not torch.is_grad_enabled():
        different.append("recording of gradients")
        torch.set_grad_enabled(True)
    return different


def environment(device: torch.device) -> dict[str, Any]:
    """Return processor, accelerator, threads and versions."""
    return {
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "medgenbench": __version__,
    }


def commit() -> str | None:
    """Return the commit of this code, with '-dirty' if files differ from it; None where it was installed, not cloned."""
    home = Path(__file__).parent
    try:
        for command in ("ls-files --error-unmatch __init__.py", "describe --always --dirty --abbrev=12 --exclude *"):
            done = subprocess.run(
                ["git", "-C", str(home), *command.split()], capture_output=True, text=True, timeout=20
            )
            if done.returncode:
                return None
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
