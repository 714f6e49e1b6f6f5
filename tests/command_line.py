"""What tests through the command line share: small images, a suite on them, families that go wrong, and killing."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

COSTS = {"training_seconds", "seconds_per_1000_samples", "peak_memory_bytes"}

FAMILIES = '''
"""Families that go wrong in one way each, and one that does not."""
import os, pathlib, random, signal, time
import torch
from bench.model import GenerativeModel

class Sound(GenerativeModel):
    """One learnt image and some noise: nothing is wrong with it."""
    family = "vae"
    source = "test"
    def __init__(self, shape, num_classes, hyperparameters):
        super().__init__(shape, num_classes, hyperparameters)
        self.image = torch.nn.Parameter(torch.full(shape, 0.5))
    def configure_optimizers(self):
        return {"all": torch.optim.Adam(self.parameters(), 1e-2)}
    def training_step(self, images, labels, optimizers, progress, rng):
        noise = torch.rand(images.shape, generator=rng)
        loss = (self.image + 0.1 * noise - images).square().mean()
        optimizers["all"].zero_grad()
        loss.backward()
        optimizers["all"].step()
        return {"loss": loss.detach()}
    def sample(self, labels, rng):
        return (self.image + 0.1 * torch.randn(len(labels), *self.shape, generator=rng)).clamp(0, 1)

class Raises(Sound):
    """Raises."""
    def training_step(self, *given):
        raise RuntimeError("on purpose")

class Hangs(Sound):
    """Sleeps for ever."""
    def training_step(self, *given):
        time.sleep(10_000)

class Killed(Sound):
    """Dies as if the kernel had killed it."""
    def training_step(self, *given):
        os.kill(os.getpid(), signal.SIGKILL)

class Hungry(Sound):
    """Takes more and more memory."""
    def training_step(self, images, labels, optimizers, progress, rng):
        self.kept = getattr(self, "kept", [])
        self.kept.append(torch.ones(25_000_000))
        time.sleep(0.05)
        return super().training_step(images, labels, optimizers, progress, rng)

class NanLoss(Sound):
    """A loss that is no number from step 31 on."""
    def training_step(self, images, labels, optimizers, progress, rng):
        losses = super().training_step(images, labels, optimizers, progress, rng)
        return losses if progress.step < 30 else {"loss": torch.tensor(float("nan"))}

class Explodes(Sound):
    """A loss that is finite and has left every measure."""
    def training_step(self, images, labels, optimizers, progress, rng):
        losses = super().training_step(images, labels, optimizers, progress, rng)
        return losses if progress.step < 150 else {"loss": torch.tensor(1e9)}

class BlownUp(Sound):
    """A loss that leaves every measure before the guard first looks, and stays finite."""
    def training_step(self, images, labels, optimizers, progress, rng):
        losses = super().training_step(images, labels, optimizers, progress, rng)
        return losses if progress.step < 5 else {"loss": torch.tensor(1e20)}

class NanImages(Sound):
    """Finite losses, images that are no numbers."""
    def sample(self, labels, rng):
        return torch.full((len(labels), *self.shape), float("nan"))

class Constant(Sound):
    """Draws the same image whatever the noise."""
    def sample(self, labels, rng):
        return self.image.clamp(0, 1).expand(len(labels), *self.shape)

class ConstantAtLast(Sound):
    """Draws one image from the last step on."""
    def training_step(self, images, labels, optimizers, progress, rng):
        self.still = progress.fraction > 0.98
        return super().training_step(images, labels, optimizers, progress, rng)
    def sample(self, labels, rng):
        return self.image.clamp(0, 1).expand(len(labels), *self.shape) if self.still else super().sample(labels, rng)

class WrongShape(Sound):
    """Images of another size."""
    def sample(self, labels, rng):
        return torch.rand(len(labels), 1, 8, 8, generator=rng)

class OutOfRange(Sound):
    """Samples outside [0, 1]."""
    def sample(self, labels, rng):
        return 7 * torch.rand(len(labels), *self.shape, generator=rng)

class NotDeterministic(Sound):
    """Heeds no seed."""
    def sample(self, labels, rng):
        return super().sample(labels, torch.Generator().manual_seed(random.SystemRandom().getrandbits(60)))

class LeavesQuietly(Sound):
    """Ends the process in the middle of its evaluation as if all were well."""
    def sample(self, labels, rng):
        if len(labels) > 8:
            os._exit(0)
        return super().sample(labels, rng)

class Exits(Sound):
    """Ends the program."""
    def training_step(self, *given):
        raise SystemExit(0)

class Meddles(Sound):
    """Changes settings of the whole process, prints, and leaves a thread and a process at work."""
    def training_step(self, images, labels, optimizers, progress, rng):
        if progress.step == 0:
            import subprocess, sys, threading
            torch.set_num_threads(3)
            torch.set_default_dtype(torch.float64)
            threading.Thread(target=time.sleep, args=(10_000,)).start()
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(10_000)"
            child = subprocess.Popen([sys.executable, "-c", code, "left-by-meddles"])
            print("x" * 1000)
        noise = torch.rand(images.shape, generator=rng, dtype=torch.float32)
        return {"loss": (self.image + noise - images).square().mean().detach()}

class WrongLosses(Sound):
    """Losses that are no scalars."""
    def training_step(self, images, *given):
        return {"loss": images}

class KilledWriting(Sound):
    """Dies once, in the middle of its training, when the file of that name is there."""
    def training_step(self, images, labels, optimizers, progress, rng):
        once = pathlib.Path(os.environ.get("KILL_ONCE", "nowhere"))
        if progress.step == 100 and once.exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(images, labels, optimizers, progress, rng)
'''


def install_families(site: Path) -> Path:
    """Lay out `FAMILIES` as an installed package with entry points; the folder is for PYTHONPATH."""
    package = site / "badfamilies"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAMILIES)
    info = site / "badfamilies-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: badfamilies\nVersion: 1\n")
    (site / "broken_at_import.py").write_text("raise RuntimeError('no such driver')\n")
    (site / "leaves_at_import.py").write_text("raise SystemExit(3)\n")
    names = [line.split()[1].split("(")[0] for line in FAMILIES.splitlines() if line.startswith("class ")]
    points = "\n".join(f"{name} = badfamilies:{name}" for name in names)
    points += "\nbroken = broken_at_import:X\nleaving = leaves_at_import:X\nno_class = json:dumps"
    (info / "entry_points.txt").write_text(f"[bench.generators]\n{points}\n")
    return site


def make_images(root: Path, per_class: int = 60, names: tuple[str, ...] = ("level", "upright")) -> None:
    """Bright bars with noise, upright or level, two images of each subject."""
    rng = np.random.default_rng(0)
    for position, name in enumerate(names):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            image = rng.normal(40, 12, (16, 16))
            at = rng.integers(3, 11)
            image[at : at + 3] += 150
            pixels = (image.T if position else image).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"p{number // 2:03d}_{number}.png")


def environment(cwd: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "BENCH_CACHE": str(Path(cwd) / "cache"), "COLUMNS": "160", **more}


def bench(*arguments, cwd, check=None, timeout=600, **more):
    """Run a command line to its end; there is never a traceback."""
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    given = {"cwd": cwd, "capture_output": True, "text": True, "timeout": timeout}
    done = subprocess.run(command, env=environment(cwd, **more), **given)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def start(*arguments, cwd, log: Path, **more) -> subprocess.Popen[bytes]:
    """Start a command line in a process group of its own."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", "bench", *map(str, arguments)]
        return subprocess.Popen(
            command,
            cwd=cwd,
            stdout=file,
            stderr=file,
            env=environment(cwd, **more),
            start_new_session=True,
            preexec_fn=_heed_signals,
        )


def _heed_signals() -> None:
    """Tests that run in a shell's background inherit signals that are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the command and everything it started; returns when all of it is gone."""
    family = psutil.Process(process.pid).children(recursive=True) if psutil.pid_exists(process.pid) else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, f"these outlived the command that started them: {alive}"


def wait_for(condition, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def scores(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv but for costs."""
    with (folder / "results.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["measure"] not in COSTS]
