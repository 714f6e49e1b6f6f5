"""Scores for images from anywhere: a folder or an array of generated ones against one of real ones, nothing trained.

The protocol is that of suites (`bench.evaluate`): equal n on both sides, intervals over the real side's subjects, and a
floor: one half of the real images against the other, beside the generated ones against that same half.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from bench.data.dataset import ImageDataset
from bench.data.images import SUFFIXES, ImageFolder
from bench.data.splits import Split
from bench.errors import InputError, UnavailableError
from bench.evaluate import ALL, Drawn, Protocol, Scorer, make_protocol
from bench.extractors import build_extractor, state_of
from bench.metrics.features import Extracted, FeatureExtractor
from bench.metrics.records import GROUPS, MEASURES
from bench.seeds import numpy_rng
from bench.store import write_bytes
from bench.suite import EvaluationSpec

LEAST = 10
"""Images on either side below which nothing is scored."""
DEFAULT_FEATURES = ("random",)
MOST_DRAWS = 20
HALVES = 10
"""Random halves of the real images behind the floor."""
DARK = 32768
"""Half the range of 16 bits."""
COLUMNS = (
    "set", "class", "features", "measure", "mean", "std", "draws", "n_real", "n_generated", "lower", "upper", "flag",
    "about",
)  # fmt: skip
_NOT_WITHOUT_TRAINING = ("domain",)
_AT_HALF = (
    "frechet_distance", "frechet_distance_infinity", "kernel_distance", "gaussian_kernel_distance", "precision_recall",
)  # fmt: skip

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is to be scored, and how."""

    real: Path
    generated: Path
    train: Path | None = None
    """The generator's training images: with them, copies of them are looked for."""
    features: tuple[str, ...] = DEFAULT_FEATURES
    measures: tuple[str, ...] = ()
    """Empty: all that the images at hand allow."""
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    n: int | None = None
    """Images per side and draw (per class, with classes); the smaller side's if left out."""
    draws: int | None = None
    """As many as the generated images fill without sharing, 20 at most, if left out."""
    subject_pattern: str | None = None
    window: tuple[float, float] | None = None
    inception_weights: str | None = None
    extractors: Mapping[str, Any] = field(default_factory=dict)
    """How features are computed, as `EvaluationSpec.extractors`."""
    bootstrap: int = 200
    seed: int = 0


@dataclass
class Side:
    """One side's images as they were found."""

    images: np.ndarray
    """uint8 [n, C, H, W]."""
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    subjects: np.ndarray


@dataclass(frozen=True)
class _Look:
    """What a first look at one side finds."""

    sizes: Counter[tuple[int, int]]
    """Height and width -> number of images."""
    colour: bool
    """Whether any image has three different channels."""
    deep: float | None = None
    """The greatest of the values where they have more than 8 bits."""


def score(request: Request, say: Say, device: torch.device, told: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Score generated against real images.

    Args:
        request: what and how.
        say: is told what happens, a line at a time.
        device: where extractors run.
        told: is filled with every extractor's rule, backend and details, by its name.

    Returns:
        Rows with the keys `COLUMNS`.

    Raises:
        InputError: images that can't be read or don't fit each other, or too few of them.
        UnavailableError: none of the features can be had.
    """
    for name in request.features:
        if name in _NOT_WITHOUT_TRAINING:
            raise InputError(f"--features {name}: these are trained on a suite's training images; use bench run")
    given = {"--real": request.real, "--generated": request.generated}
    if request.train is not None:
        given["--train"] = request.train
    looks = {option: _look(path, option) for option, path in given.items()}
    size, channels = _shape(request, looks)
    _check_range(request, looks)
    real, generated, *training = (
        _read(path, option, request, size, channels, looks[option].deep is not None, say)
        for option, path in given.items()
    )
    conditional = _match_classes(real, generated, say)
    data, split = _dataset(real, training[0] if training else None, conditional)
    spec, protocol = _protocol(request, data, split, generated, conditional, say)
    extractors = _extractors(request, spec, device, say)
    if told is not None:
        told.update({name: state_of(extractor) for name, extractor in extractors.items()})
    say(
        f"{len(real.images):,} real and {len(generated.images):,} generated images of {channels} x {size[0]} x {size[1]}"
    )

    real_found, generated_found = {}, {}
    for name, extractor in extractors.items():
        say(f"features {name}: {extractor.rule}")
        real_found[name] = extractor(real.images)
        generated_found[name] = extractor(generated.images)
    draw = _draws(generated, generated_found, protocol, conditional, request.seed)
    scorer = Scorer(data, split, protocol, spec, extractors, _rows_of(real_found, protocol.union))
    found, _ = scorer.score(draw, conditional=conditional, emit=lambda *_, **__: None)
    rows = [{"set": "generated", **row} for row in found if row["draws"]]  # not classes that are too small
    rows += _floor(request, data, split, spec, extractors, real, real_found, generated, generated_found)
    return [{key: row.get(key) for key in COLUMNS} for row in rows]


def write_rows(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write results.csv and return its path."""
    import csv

    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(folder / "results.csv", stream.getvalue().encode())
    return folder / "results.csv"


# --- reading ------------------------------------------------------------------------------------------------------------


def _shape(request: Request, looks: Mapping[str, _Look]) -> tuple[tuple[int, int], int]:
    """Height and width, and channels, that all sides are brought to: the real images' own if nothing else is said."""
    real = looks["--real"]
    size = next(iter(real.sizes))
    for option, look in looks.items():
        own = next(iter(look.sizes))
        if request.image_size is None and len(look.sizes) > 1:
            told = ", ".join(f"{h}x{w} ({count})" for (h, w), count in look.sizes.most_common(3))
            raise InputError(f"{option}: images of {len(look.sizes)} sizes: {told}; say --image-size HEIGHT WIDTH")
        if request.image_size is None and own != size:
            raise InputError(
                f"{option}: images of {own[0]}x{own[1]}, real ones of {size[0]}x{size[1]}; say --image-size HEIGHT WIDTH, "
                "to which all are resized"
            )
        if request.channels is None and look.colour != real.colour:
            grey = (
                "the real images are grey, these coloured"
                if look.colour
                else "the real images are coloured, these grey"
            )
            raise InputError(f"{option}: {grey}; say --channels 1 or --channels 3")
    return request.image_size or size, request.channels or (3 if real.colour else 1)


def _check_range(request: Request, looks: Mapping[str, _Look]) -> None:
    """Refuse values of more than 8 bits that leave most of their range empty: they would all be read as black."""
    if request.window is not None:
        if request.window[0] >= request.window[1]:
            raise InputError(
                f"--window {request.window[0]:g} {request.window[1]:g}: the first value must be below the second"
            )
        if all(look.deep is None for look in looks.values()):
            raise InputError("--window: all images have 8 bits, which span black to white; leave it out")
        return
    for option, look in looks.items():
        if look.deep is not None and look.deep < DARK:
            raise InputError(
                f"{option}: images of more than 8 bits with no value above {look.deep:g}; say which values are black and "
                f"white: --window 0 {look.deep:g}, or --window 0 65535 if they are meant so"
            )


def _look(path: Path, option: str) -> _Look:
    """Read all headers, and the pixels that tell colour and range."""
    if path.suffix in (".npy", ".npz"):
        images = _array(path, option)
        colour = images.shape[1] == 3 and bool((images != images[:, :1]).any())
        return _Look(Counter({(images.shape[2], images.shape[3]): len(images)}), colour)
    from PIL import Image

    sizes: Counter[tuple[int, int]] = Counter()
    colour, deep = False, None
    for file in _files(path, option):
        try:
            with Image.open(file) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                sizes[(image.width, image.height) if turned else (image.height, image.width)] += 1
                if image.mode[0] in "IF":
                    deep = max(deep or 0.0, float(np.asarray(image).max()))
                elif not colour and image.mode not in ("L", "LA", "1"):
                    pixels = np.asarray(image.convert("RGB"))
                    colour = bool((pixels != pixels[..., :1]).any())
        except OSError:
            continue  # named by the reader, which counts it
    if not sizes:
        raise InputError(f"{option}: none of the images in {path} can be read")
    return _Look(sizes, colour, deep)


def _files(path: Path, option: str) -> list[Path]:
    if not path.is_dir():
        what = "there is no such folder" if not path.exists() else "neither a folder nor a .npy or .npz file"
        raise InputError(f"{option} {path}: {what}")
    files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not files:
        raise InputError(f"{option} {path}: no images here ({' '.join(SUFFIXES)})")
    return files


def _array(path: Path, option: str) -> np.ndarray:
    """Read an array of images as uint8 [n, C, H, W].

    Taken: [n, H, W], [n, C, H, W] or [n, H, W, C] with 1 or 3 channels; uint8, or floats in [0, 1]. An .npz must hold one
    array, or one named 'images'.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except Exception as error:  # whatever NumPy and its zip reader make of damaged bytes
        raise InputError(
            f"{option} {path}: can't be read as an array: {(str(error).splitlines() or [''])[0]}"
        ) from None
    if isinstance(loaded, np.lib.npyio.NpzFile):
        name = "images" if "images" in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
        if name is None:
            raise InputError(f"{option} {path}: holds {', '.join(loaded.files) or 'nothing'}; name one array 'images'")
        try:
            loaded = loaded[name]
        except Exception as error:  # a member of the archive that is damaged
            raise InputError(f"{option} {path}: can't read {name!r}: {(str(error).splitlines() or [''])[0]}") from None
    if loaded.ndim == 3:
        loaded = loaded[:, None]
    if loaded.ndim == 4 and loaded.shape[1] not in (1, 3) and loaded.shape[3] in (1, 3):
        loaded = loaded.transpose(0, 3, 1, 2)
    if loaded.ndim != 4 or loaded.shape[1] not in (1, 3) or not len(loaded):
        raise InputError(
            f"{option} {path}: expected images [n, H, W], [n, C, H, W] or [n, H, W, C], got {loaded.shape}"
        )
    if loaded.dtype == np.uint8:
        return np.ascontiguousarray(loaded)
    if loaded.dtype.kind != "f":
        raise InputError(f"{option} {path}: {loaded.dtype} has no known range; store uint8, or floats in [0, 1]")
    if not np.isfinite(loaded).all() or loaded.min() < 0 or loaded.max() > 1:
        raise InputError(
            f"{option} {path}: floats must lie in [0, 1], found {loaded.min():g} to {loaded.max():g}; "
            "for [-1, 1] store (x + 1) / 2"
        )
    return np.rint(np.ascontiguousarray(loaded) * 255).astype(np.uint8)


def _read(
    path: Path, option: str, request: Request, size: tuple[int, int], channels: int, deep: bool, say: Say
) -> Side:
    """Read one side, of this size and number of channels; the window is for values of more than 8 bits."""
    if path.suffix in (".npy", ".npz"):
        side = _from_array(_array(path, option), size, channels)
    else:
        side = _from_folder(path, option, request, size, channels, request.window if deep else None, say)
    if len(side.images) < LEAST:
        raise InputError(
            f"{option} {path}: {len(side.images)} images are too few; {LEAST} are the least, some hundreds wise"
        )
    return side


def _from_array(images: np.ndarray, size: tuple[int, int], channels: int) -> Side:
    from PIL import Image

    if images.shape[1] == 3 and channels == 1:
        images = np.stack([np.asarray(Image.fromarray(i.transpose(1, 2, 0)).convert("L"))[None] for i in images])
    if images.shape[1] == 1 and channels == 3:
        images = np.repeat(images, 3, axis=1)
    if images.shape[2:] != size:
        method = Image.Resampling.BICUBIC
        images = np.stack(
            [[np.asarray(Image.fromarray(plane).resize(size[::-1], method)) for plane in image] for image in images]
        )
    return Side(images, None, (ALL,), np.array([str(index) for index in range(len(images))]))


def _from_folder(
    path: Path,
    option: str,
    request: Request,
    size: tuple[int, int],
    channels: int,
    window: tuple[float, float] | None,
    say: Say,
) -> Side:
    files = _files(path, option)
    flat = [file for file in files if file.parent == path]  # a folder per class, or one without classes
    if flat and len(flat) != len(files):
        raise InputError(f"{option} {path}: images both here and in folders below; a folder per class, or all in one")
    pattern = request.subject_pattern if option == "--real" else None
    options = {"image_size": size, "channels": channels, "subject_pattern": pattern, "window": window}
    options["keep_constant"] = option == "--generated"
    with tempfile.TemporaryDirectory() as scratch:
        where = path.resolve()
        options |= {"root": str(where.parent), "classes": (where.name,)} if flat else {"root": str(where)}
        try:
            data = ImageFolder(ImageFolder.Options.model_validate(options)).prepare(Path(scratch))
        except ValidationError as error:
            raise InputError(f"{option}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        except InputError as error:
            raise InputError(
                f"{option}: {str(error).replace('data.', '').replace('or raise max_skipped_fraction', '')}"
            ) from None
        for name, reason in data.skipped[:5]:
            say(f"left out: {name}: {reason}")
        images = data.bytes(np.arange(len(data)))
    classes = len(data.class_names) > 1
    return Side(images, data.labels if classes else None, data.class_names if classes else (ALL,), data.subjects)


# --- the protocol -------------------------------------------------------------------------------------------------------


def _match_classes(real: Side, generated: Side, say: Say) -> bool:
    """Whether both sides have the same classes; otherwise both are taken as one, and that is said."""
    if real.labels is not None and generated.labels is not None:
        if real.class_names == generated.class_names:
            return True
        unknown = sorted(set(generated.class_names) ^ set(real.class_names))
        raise InputError(
            f"--generated: classes {', '.join(generated.class_names)} against real {', '.join(real.class_names)}; "
            f"only on one side: {', '.join(unknown)}. Give both the same folders, or put the images into one"
        )
    if real.labels is not None or generated.labels is not None:
        which = "real" if real.labels is not None else "generated"
        say(f"only the {which} images have classes: scored as one set, without scores by class")
    return False


def _dataset(real: Side, training: Side | None, conditional: bool) -> tuple[ImageDataset, Split]:
    """The real images as test and validation side, the generator's training images, if given, as training side."""
    parts = [real] if training is None else [real, training]
    count = len(real.images)
    labels = real.labels if conditional and real.labels is not None else np.zeros(count, np.int64)
    images = np.concatenate([side.images for side in parts])
    rest = len(images) - count
    subjects = np.concatenate([real.subjects, np.array([f"training {index}" for index in range(rest)], dtype=str)])
    data = ImageDataset(
        pixels=images,
        labels=np.concatenate([labels, np.zeros(rest, np.int64)]),
        class_names=real.class_names if conditional else (ALL,),
        subjects=subjects,
        names=tuple(map(str, range(len(images)))),
        fingerprint="0" * 16,
        title="images",
        simulated=False,
    )
    test, train = np.arange(count), np.arange(count, len(images))
    return data, Split(train=train, validation=test, test=test, by="subject", seed=0, leaking_subjects=0)


def _protocol(
    request: Request, data: ImageDataset, split: Split, generated: Side, conditional: bool, say: Say
) -> tuple[EvaluationSpec, Protocol]:
    """Choose measures, n and the number of draws, and say what bounds them."""
    possible = [group for group in GROUPS if _possible(group, request)]
    asked = request.measures or tuple(possible)
    for group in asked:
        if group not in possible:
            raise InputError(f"--measures {group}: not to be had here; possible are {', '.join(possible)}")
    most = len(generated.images)
    if conditional and generated.labels is not None:
        most = int(np.bincount(generated.labels, minlength=len(generated.class_names)).min())
    n = min(request.n or most, most)
    spec = EvaluationSpec(
        draws=2, samples_per_draw=max(LEAST, n), measures=asked, extractors=dict(request.extractors),
        features=request.features, inception_weights=request.inception_weights, bootstrap=request.bootstrap, few=LEAST,
    )  # fmt: skip
    protocol = make_protocol(data, split, spec)
    available = len(generated.images) // max(1, len(protocol.labels(conditional)))
    draws = request.draws or max(1, min(MOST_DRAWS, available))
    if draws > available:
        say(f"{draws} draws of {len(protocol.labels(conditional)):,} from {len(generated.images):,} images share images: "
            "their deviation is too small")  # fmt: skip
    return spec.model_copy(update={"draws": draws}), protocol


def _possible(group: str, request: Request) -> bool:
    """Whether a group of measures can be had from two sets of images."""
    needs = {MEASURES[name].needs for name in GROUPS[group]}
    if needs & {"reconstructions"} and not needs - {"reconstructions"}:
        return False
    if "training images" in needs:
        return request.train is not None
    return group not in ("class_recognition", "utility")  # they need a classifier of the classes


def _extractors(request: Request, spec: EvaluationSpec, device: torch.device, say: Say) -> dict[str, FeatureExtractor]:
    """Build and check every extractor; one that can't be had is named and left out."""
    made: dict[str, FeatureExtractor] = {}
    reasons = []
    for name in request.features:
        try:
            made[name] = build_extractor(name, spec, device)
            made[name].self_check()
        except UnavailableError as error:
            made.pop(name, None)
            reasons.append(f"{name}: {error}")
            say(f"features {name!r} are left out: {error}")
    if not made:
        raise UnavailableError("no features can be had: " + "; ".join(reasons))
    return made


def _draws(
    generated: Side, found: Mapping[str, Extracted], protocol: Protocol, conditional: bool, seed: int
) -> Callable[[int], Drawn]:
    """Draws that share no image for as long as there are enough, then random ones."""
    wanted = protocol.labels(conditional)
    labels = generated.labels if conditional and generated.labels is not None else np.zeros(len(generated.images), int)
    counts = np.bincount(wanted if conditional else np.zeros(len(wanted), int), minlength=int(labels.max()) + 1)
    order = [numpy_rng(seed, "order", c).permutation(np.flatnonzero(labels == c)) for c in range(len(counts))]

    def draw(number: int) -> Drawn:
        parts = []
        for label, (own, count) in enumerate(zip(order, counts, strict=True)):
            part = own[number * count : (number + 1) * count]
            if len(part) < count:
                part = numpy_rng(seed, "draw", number, label).permutation(own)[:count]
            parts.append(part)
        chosen = np.concatenate(parts)
        return Drawn(generated.images[chosen], labels[chosen], None, _rows_of(found, chosen))

    return draw


def _rows_of(found: Mapping[str, Extracted], chosen: np.ndarray) -> dict[str, Extracted]:
    at = torch.from_numpy(np.asarray(chosen, dtype=np.int64))
    return {
        name: Extracted(values.features[at], None if values.logits is None else values.logits[at])
        for name, values in found.items()
    }


def _floor(
    request: Request,
    data: ImageDataset,
    split: Split,
    spec: EvaluationSpec,
    extractors: Mapping[str, FeatureExtractor],
    real: Side,
    real_found: Mapping[str, Extracted],
    generated: Side,
    generated_found: Mapping[str, Extracted],
) -> list[dict[str, Any]]:
    """Score one half of the real subjects, and as many generated images, against the other half; mean over halvings."""
    pooled = data.as_one_class()
    measures = tuple(name for name in _AT_HALF if name in spec.measures)
    names = np.unique(real.subjects)
    if len(names) < 4 or not measures:
        return []
    once = spec.model_copy(update={"draws": 1, "bootstrap": 0, "measures": measures})
    values: dict[tuple[str, str, str], list[float]] = {}
    template: dict[tuple[str, str, str], dict[str, Any]] = {}
    for number in range(HALVES):
        rng = numpy_rng(request.seed, "halves", number)
        first = np.isin(real.subjects, rng.permutation(names)[: len(names) // 2])
        one, other = np.flatnonzero(first), rng.permutation(np.flatnonzero(~first))
        n = min(len(one), len(other), len(generated.images))
        one = np.sort(rng.permutation(one)[:n])
        half = replace(split, test=one, validation=one)
        protocol = make_protocol(pooled, half, once.model_copy(update={"samples_per_draw": max(LEAST, n)}))
        scorer = Scorer(pooled, half, protocol, once, extractors, _rows_of(real_found, protocol.union))
        theirs = rng.permutation(len(generated.images))[:n]
        for name, side, found, chosen in (
            ("floor: real halves", real, real_found, other[:n]),
            ("generated, n of the floor", generated, generated_found, theirs),
        ):
            drawn = Drawn(side.images[chosen], np.zeros(n, np.int64), None, _rows_of(found, chosen))
            rows, _ = scorer.score(lambda _, drawn=drawn: drawn, conditional=False, emit=lambda *_, **__: None)  # type: ignore[misc]
            for row in rows:
                key = (name, row["features"], row["measure"])
                values.setdefault(key, []).append(math.nan if row["mean"] is None else row["mean"])
                if key not in template or row["mean"] is None:  # its flag says why there is no number
                    template[key] = row
    return [
        {**template[key], "set": key[0], "mean": mean if math.isfinite(mean) else None}
        | {"std": float(np.std(found, ddof=1)) if math.isfinite(mean) else None, "draws": len(found)}
        for key, found in values.items()
        for mean in [float(np.mean(found))]
    ]
