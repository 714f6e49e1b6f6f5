"""`bench doctor`: looks at the machine and names what would go wrong, with its remedy. Changes nothing."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.plan import default_threads

PACKAGES = ("torch", "torchvision", "torch-fidelity", "mlflow", "pandas", "seaborn", "scikit-image", "nilearn")
NEEDED_DISK = 2 * 2**30
NEEDED_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says what to do, if anything."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def examine(out: Path) -> list[Finding]:
    """Look at everything; no finding stops another."""
    return [*_packages(), _pairing(), _accelerator(), _memory(), *_folders(out), _inception()]


def _packages() -> list[Finding]:
    findings = []
    for name in PACKAGES:
        try:
            findings.append(Finding(name, True, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, False, "not installed", f"python -m pip install {name}"))
    return findings


def _pairing() -> Finding:
    """A torchvision that was built for another torch fails at import ('operator torchvision::nms does not exist')."""
    try:
        importlib.import_module("torch")
        importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError, OSError) as error:
        first = str(error).splitlines()[0]
        remedy = "python -m pip install --upgrade --force-reinstall torch torchvision (both from one index)"
        return Finding("torch with torchvision", False, first, remedy)
    return Finding("torch with torchvision", True, "they fit")


def _accelerator() -> Finding:
    driver = Path("/proc/driver/nvidia/version").exists()
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("accelerator", False, f"torch can't be loaded: {error}", "see above")
    if torch.cuda.is_available():
        return Finding("accelerator", True, torch.cuda.get_device_name(0))
    if driver:
        remedy = "the driver is there but torch can't use it: install a torch built for this driver's CUDA version"
        return Finding("accelerator", False, "NVIDIA driver without usable CUDA", remedy)
    return Finding("accelerator", True, f"none; jobs run on {default_threads()} processor cores")


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return Finding("memory", True, "unknown")
    text = f"{total / 2**30:.1f} GiB"
    if total < NEEDED_MEMORY:
        return Finding("memory", False, text, "4 GiB are needed: use a smaller image_size or another machine")
    return Finding("memory", True, text)


def _folders(out: Path) -> list[Finding]:
    from bench.data.dataset import cache_folder

    findings = []
    for what, folder, option in (("results", out, "--out DIR"), ("data cache", cache_folder(), "BENCH_CACHE=DIR")):
        there = folder.resolve()
        while not there.exists():
            there = there.parent
        try:
            with tempfile.TemporaryFile(dir=there):
                free = shutil.disk_usage(there).free
        except OSError as error:
            findings.append(
                Finding(what, False, f"{folder} can't be written: {error.strerror}", f"choose with {option}")
            )
            continue
        text = f"{folder}, {free / 2**30:.1f} GiB free"
        remedy = "" if free >= NEEDED_DISK else f"2 GiB are needed: free some, or choose another place with {option}"
        findings.append(Finding(what, free >= NEEDED_DISK, text, remedy))
    return findings


def _inception() -> Finding:
    """The weights are optional: without them the column says so and nothing else stops."""
    named = os.environ.get("BENCH_INCEPTION_WEIGHTS")
    if named and not Path(named).is_file():
        return Finding("Inception weights", False, f"BENCH_INCEPTION_WEIGHTS={named} is no file", "correct or unset it")
    if named:
        return Finding("Inception weights", True, named)
    home = Path(
        os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    )
    cached = sorted(home.glob("hub/checkpoints/weights-inception-2015-12-05*"))
    if cached:
        return Finding("Inception weights", True, str(cached[0]))
    remedy = "downloaded when a suite first asks for 'inception'; or name a file with BENCH_INCEPTION_WEIGHTS"
    return Finding("Inception weights", True, "not here yet", remedy)
