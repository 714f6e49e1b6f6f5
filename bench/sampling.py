"""Images out of a trained model: always the same chunks, always 8 bits, for scoring and for export alike."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from bench.errors import BenchError, DamagedWeightsError, InputError, NotFiniteError
from bench.model import GenerativeModel, Translator
from bench.per_class import PerClass
from bench.registry import GENERATORS, suggestion
from bench.seeds import Name, forked, torch_rng
from bench.spent import SPENT
from bench.store import read_json, there, write_bytes, write_with

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 100
"""Images per call of `sample`: part of the protocol, since random numbers depend on it."""
DRAWN_TWICE = 16


def generate(model: GenerativeModel, labels: np.ndarray, seed: int, *names: Name, device: torch.device) -> np.ndarray:
    """Draw one image per label and quantise it to 8 bits.

    Args:
        model: in evaluation mode, on `device`.
        labels: class indices [n].
        seed: root of the stream; `names` say which stream of it.
        device: where the model is.

    Returns:
        uint8 [n, channels, height, width].

    Raises:
        NotFiniteError: the family returned numbers that are not finite.
        BenchError: it returned another shape, or values outside [0, 1].
    """
    return generate_on_device(model, labels, seed, *names, device=device).cpu().numpy()


def generate_on_device(
    model: GenerativeModel, labels: np.ndarray, seed: int, *names: Name, device: torch.device
) -> UInt8[Tensor, "n c h w"]:
    """Draw as `generate` does and leave the 8-bit images where the model is, for extractors on the same device."""
    lowered = torch.autocast(device.type, torch.bfloat16, enabled=model.sampling_precision == "bfloat16")
    chunks = []
    for start in range(0, len(labels), CHUNK):
        part = torch.from_numpy(np.asarray(labels[start : start + CHUNK], dtype=np.int64)).to(device)
        # what a family draws from torch's global state would differ from run to run: pin it as well
        with SPENT.on("sampling"), torch.no_grad(), forked(seed, *names, start), lowered:
            images = model.sample(part, torch_rng(seed, *names, start))
        chunks.append(quantised(images, (len(part), *model.shape), "sample"))
    return torch.cat(chunks)


def check_determinism(model: GenerativeModel, labels: np.ndarray, seed: int, device: torch.device) -> None:
    """Draw a few images twice from the same seed.

    Raises:
        BenchError: they differ: no number of such a model could be had again. Mending the family is enough, since the
            training stands.
    """
    first, second = (generate(model, labels[:DRAWN_TWICE], seed, "twice", device=device) for _ in range(2))
    if not np.array_equal(first, second):
        raise BenchError("sample is not deterministic: one seed gave two results; draw all random numbers from `rng`")


def quantised(images: Tensor, shape: tuple[int, ...], method: str) -> UInt8[Tensor, "n c h w"]:
    """Return what a family's method made as 8 bits, after a look whether it is what was asked for.

    Raises:
        NotFiniteError: values are not finite.
        BenchError: no tensor, another shape, or values outside [0, 1].
    """
    if not isinstance(images, Tensor) or images.is_complex():
        what = "complex numbers" if isinstance(images, Tensor) else type(images).__name__
        raise BenchError(f"{method} returned {what}, expected a tensor of shape {shape}")
    if tuple(images.shape) != shape:
        raise BenchError(f"{method} returned shape {tuple(images.shape)}, expected {shape}")
    if not bool(torch.isfinite(images).all()):
        raise NotFiniteError(f"{method} returned values that are not finite")
    low, high = float(images.min()), float(images.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise BenchError(f"{method} returned values in [{low:g}, {high:g}], not in [0, 1]")
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def load_model(run: Path, device: torch.device) -> tuple[GenerativeModel | Translator, dict[str, Any]]:
    """Return a training's model with its weights, in evaluation mode, and the record of the training.

    Raises:
        InputError: the folder holds no finished training, or the checkpoint is damaged.
        BenchError: the checkpoint can't be read.
    """
    result = read_json(run / "result.json")
    if result is None or result.get("status") != "finished" or "shape" not in result:
        raise InputError(f"{run}: no finished training here; name a folder below results/SUITE/runs")
    if result.get("role") == "external":
        raise InputError(f"{run}: these images were made elsewhere; there is no model")
    family: type[Any] = GENERATORS.get(result["family"])
    channels, height, width = result["shape"]
    with forked(0, "weights"):  # the weights drawn here are replaced at once
        hyperparameters = family.Hyperparameters.model_validate(result["hyperparameters"])
        kind = ((channels, height, width), len(result["class_names"]), hyperparameters)
        per_class = (result.get("policy") or {}).get("unconditional") == "per_class"
        model: GenerativeModel | Translator = PerClass(family, *kind) if per_class else family(*kind)
    weights = run / "checkpoint.safetensors"
    there(weights)  # one that can't be read is not damaged
    try:
        content = weights.read_bytes()
        if result.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("its content is not what was written")
        model.load_state_dict(load(content))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DamagedWeightsError(f"{weights}: can't be loaded ({first}); delete the folder and run again") from None
    model.sampling_precision = (result.get("policy") or {}).get("sampling_precision", "float32")
    return model.to(device).eval(), result


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Return images [n, C, H, W] side by side, small ones enlarged by whole factors without smoothing."""
    from PIL import Image

    count, channels, height, width = images.shape
    rows = -(-count // columns)
    factor = max(1, round(128 / max(height, width)))
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def export(run: Path, out: Path, *, n: int, class_name: str | None, seed: int) -> int:
    """Write `n` generated images as PNG files and a table images.csv (path, label, seed) into a new folder.

    Raises:
        InputError: no finished training, an unknown class, a class asked of an unconditional family, or a folder that
            is not empty.
    """
    from PIL import Image

    device = torch.device("cpu")
    model, result = load_model(run, device)
    if isinstance(model, Translator):
        raise InputError(f"{run}: {result['generator']} translates images and draws none; name another run")
    names: list[str] = result["class_names"]
    if class_name is not None and class_name not in names:
        raise InputError(f"--class {class_name}: no such class; {suggestion(class_name, names)}")
    if class_name is not None and not model.conditional:
        raise InputError(f"--class {class_name}: {result['generator']} is unconditional; leave --class out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose another --out")
    labels = np.full(n, names.index(class_name)) if class_name is not None else np.arange(n) % len(names)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "label", "generator", "seed"))
    for start in range(0, n, CHUNK):
        part = labels[start : start + CHUNK]
        images = generate(model, part, result["seed"], "export", seed, start, device=device)
        for offset, (image, label) in enumerate(zip(images, part, strict=True)):
            file = f"{start + offset:06d}.png"
            picture = Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0))
            write_with(out / file, lambda stream, picture=picture: picture.save(stream, format="PNG"))  # type: ignore[misc]
            writer.writerow((file, names[label] if model.conditional else "", result["generator"], seed))
    write_bytes(out / "images.csv", table.getvalue().encode())
    return n
