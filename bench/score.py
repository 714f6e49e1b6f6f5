"""Scores for images from anywhere: a folder or an array of generated ones against one of real ones, nothing trained.

The protocol is that of suites (`bench.evaluate`): equal n on both sides, intervals over the real side's subjects, and a
floor: one half of the real images against the other, beside the generated ones against that same half.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import InputError, UnavailableError
from bench.evaluate import ALL, Drawn, Protocol, Scorer, make_protocol
from bench.extractors import build_extractor, state_of
from bench.intake import check_classes, check_range, common_shape, distorted, known_images, look, remarks
from bench.metrics.features import Extracted, FeatureExtractor
from bench.metrics.inception import weights_at_hand
from bench.metrics.records import GROUPS, MEASURES
from bench.registry import suggestion
from bench.seeds import numpy_rng
from bench.sides import LEAST, Say, Side, read_side
from bench.store import write_bytes
from bench.suite import EvaluationSpec

DEFAULT_FEATURES: tuple[str, ...] = ()
"""Those that can be had at once: see `_default_features`."""
MOST_DRAWS = 20
HALVES = 10
"""Random halves of the real images behind the floor."""
COLUMNS = (
    "set", "class", "features", "measure", "mean", "std", "draws", "n_real", "n_generated", "lower", "upper", "flag",
    "about",
)  # fmt: skip
_NOT_WITHOUT_TRAINING = ("domain",)
_AT_HALF = (
    "frechet_distance", "frechet_distance_infinity", "kernel_distance", "gaussian_kernel_distance", "precision_recall",
)  # fmt: skip

_ALONE = ("images", "logits")
"""What measures need that tell of one set of images alone."""

Progress = Callable[[str, float, str], None]
"""Is told the phase, its share that is done, and a detail."""


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


def score(
    request: Request,
    say: Say,
    device: torch.device,
    *,
    progress: Progress = lambda *_: None,
    told: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Score generated against real images.

    Args:
        request: what and how.
        say: is told what happens, a line at a time.
        device: where extractors run.
        progress: is told how far reading, extraction and scoring are.
        told: is filled with every extractor's rule, backend and details, by its name.

    Returns:
        Rows with the keys `COLUMNS`.

    Raises:
        InputError: images that can't be read or don't fit each other, or too few of them.
        UnavailableError: none of the features can be had.
    """
    if not request.features:
        request = replace(request, features=_default_features(say))
    request = replace(request, features=tuple(dict.fromkeys(request.features)))
    for name in request.features:
        if name in _NOT_WITHOUT_TRAINING:
            raise InputError(f"--features {name}: these are trained on a suite's training images; use bench run")
    _measures(request)  # a word that is misspelt is told before anything is read
    given = {"--real": request.real, "--generated": request.generated}
    if request.train is not None:
        given["--train"] = request.train
    looks = {option: look(path, option) for option, path in given.items()}
    size, channels = common_shape(looks, request.image_size, request.channels)
    check_classes(looks)
    check_range(looks, request.window)
    sides = {
        option: read_side(
            path,
            option,
            size=size,
            channels=channels,
            window=request.window if looks[option].deep else None,
            subject_pattern=request.subject_pattern if option == "--real" else None,
            say=say,
            progress=_counted(f"reading {option}", progress),
        )
        for option, path in given.items()
    }
    real, generated, *training = sides.values()
    for line in remarks(looks, sides, size, channels):
        say(line)
    if request.subject_pattern is None:
        say(
            "no --subject-pattern: each real image counts as a subject of its own; where patients have several images, "
            "intervals and floor come out too small"
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
        real_found[name] = _extract(extractor, real.images, _counted(f"features {name}, real", progress))
        generated_found[name] = _extract(extractor, generated.images, _counted(f"features {name}, generated", progress))
    draw = _draws(generated, generated_found, protocol, conditional, request.seed)
    scorer = Scorer(data, split, protocol, spec, extractors, _rows_of(real_found, protocol.union))
    found, _ = scorer.score(draw, conditional=conditional, emit=lambda _, **told: progress(
        "scoring", told["fraction"], f"{told['detail']} of {spec.draws}"
    ))  # fmt: skip
    copies = known_images(real, generated)
    told_of_all = [f"{copies} real images among these" if copies else "", distorted(looks, size)]
    for row in found:
        row["flag"] = "; ".join(part for part in (row["flag"], *told_of_all) if part)
    rows = [{"set": "generated", **row} for row in found if row["draws"]]  # not classes that are too small
    rows += _of_real(request, data, split, protocol, spec, extractors, real, real_found, conditional)
    rows += _floor(request, data, split, spec, extractors, real, real_found, generated, generated_found, say, progress)
    return [{key: row.get(key) for key in COLUMNS} for row in rows]


def check_writable(folder: Path) -> None:
    """Make the folder, and see whether files can be written there, before anything is computed for it.

    Raises:
        InputError: it can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--out {folder}: can't be written to ({error.strerror}); name another folder") from None


def write_rows(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write results.csv and return its path."""
    import csv

    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(folder / "results.csv", stream.getvalue().encode())
    return folder / "results.csv"


# --- features -----------------------------------------------------------------------------------------------------------


def _default_features(say: Say) -> tuple[str, ...]:
    """Inception's where its weights lie on this machine, and random ones, which need none."""
    if weights_at_hand():
        return ("inception", "random")
    say(
        "no Inception weights on this machine, so no FID in the usual sense: --features inception downloads them (91 MB), "
        "or name the file with BENCH_INCEPTION_WEIGHTS"
    )
    return ("random",)


def _extract(extractor: FeatureExtractor, images: np.ndarray, progress: Callable[[int, int], None]) -> Extracted:
    """Extract in whole batches, so that the numbers are those of one call, and count."""
    step = extractor.batch_size * max(1, 128 // extractor.batch_size)
    parts = []
    for start in range(0, len(images), step):
        parts.append(extractor(images[start : start + step]))
        progress(min(start + step, len(images)), len(images))
    logits = [part.logits for part in parts if part.logits is not None]
    return Extracted(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


def _counted(phase: str, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(phase, done / max(1, total), f"{done:,} of {total:,} images")


# --- the protocol -------------------------------------------------------------------------------------------------------


def _match_classes(real: Side, generated: Side, say: Say) -> bool:
    """Whether both sides have the same classes; otherwise both are taken as one, and that is said."""
    if real.labels is not None and generated.labels is not None:
        return True  # the same ones: `check_classes`
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
    asked = _measures(request)
    most = len(generated.images)
    if conditional and generated.labels is not None:
        most = int(np.bincount(generated.labels, minlength=len(generated.class_names)).min())
    n = min(request.n or most, most)
    each = " per class" if conditional else ""
    if request.n and request.n > n:
        say(f"warning: --n {request.n:,}: the generated images suffice for {n:,}{each}, which are used")
    spec = EvaluationSpec(
        draws=2, samples_per_draw=max(LEAST, n), measures=asked, extractors=dict(request.extractors),
        features=request.features, inception_weights=request.inception_weights, bootstrap=request.bootstrap, few=LEAST,
    )  # fmt: skip
    protocol = make_protocol(data, split, spec)
    own = _counts(generated, conditional, len(protocol.class_names))
    # classes stand in `all` as they do among the real images, for which a class may have too few generated ones
    spec = spec.model_copy(
        update={"samples_per_draw": min(spec.samples_per_draw, protocol.n_class or len(data.labels))}
    )
    while spec.samples_per_draw > LEAST and (short := (own / _wanted(protocol, conditional, len(own))).min()) < 1:
        fewer = min(spec.samples_per_draw - 1, int(spec.samples_per_draw * short))
        spec = spec.model_copy(update={"samples_per_draw": max(LEAST, fewer)})
        protocol = make_protocol(data, split, spec)
    lacking = np.flatnonzero(own < _wanted(protocol, conditional, len(own)))
    if conditional and len(lacking) and most >= LEAST:
        names = ", ".join(protocol.class_names[index] for index in lacking)
        say(
            f"warning: too few generated images of {names} for their share of the real ones: `all` mixes classes otherwise"
        )
    if request.n and 0 < protocol.n_class < n:
        say(f"warning: --n {n:,}: the real images suffice for {protocol.n_class:,}{each}, which are used")
    for name, few in zip(protocol.class_names, protocol.few, strict=True):
        if few and conditional:
            say(f"warning: class {name}: fewer than {LEAST} real images, so no scores of its own")
    if conditional and most < LEAST:
        say(
            f"warning: a class has {most} generated images, fewer than the {LEAST} that are drawn; its rows are flagged"
        )
    available = int((own // _wanted(protocol, conditional, len(own))).min())
    draws = request.draws or max(1, min(MOST_DRAWS, available))
    if draws > available:
        say(f"{draws} draws of {len(protocol.labels(conditional)):,} from {len(generated.images):,} images share images: "
            "their deviation is too small")  # fmt: skip
    return spec.model_copy(update={"draws": draws}), protocol


def _counts(side: Side, conditional: bool, classes: int) -> np.ndarray:
    """Images of each class, or of all together."""
    if not conditional or side.labels is None:
        return np.array([len(side.images)])
    return np.bincount(side.labels, minlength=classes)


def _wanted(protocol: Protocol, conditional: bool, classes: int) -> np.ndarray:
    """Images of each class that a draw takes, 1 at least; or of all together."""
    labels = protocol.labels(conditional)
    counts = np.bincount(labels, minlength=classes) if conditional else np.array([len(labels)])
    return np.maximum(1, counts)


def _measures(request: Request) -> tuple[str, ...]:
    """The groups of measures that are asked for, or all that can be had.

    Raises:
        InputError: an unknown one, or one that can't be had from what is given.
    """
    possible = [group for group in GROUPS if _possible(group, request)]
    for group in request.measures:
        if group not in GROUPS:
            raise InputError(f"--measures {group}: no such measure; {suggestion(group, possible)}")
        if group not in possible:
            why = " without --train" if "training images" in {MEASURES[name].needs for name in GROUPS[group]} else ""
            raise InputError(f"--measures {group}: not to be had here{why}; possible are {', '.join(possible)}")
    return tuple(dict.fromkeys(request.measures)) or tuple(possible)


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


def _of_real(
    request: Request,
    data: ImageDataset,
    split: Split,
    protocol: Protocol,
    spec: EvaluationSpec,
    extractors: Mapping[str, FeatureExtractor],
    real: Side,
    real_found: Mapping[str, Extracted],
    conditional: bool,
) -> list[dict[str, Any]]:
    """The real images' own value of what is no comparison, and so is to be read beside it: variety, Inception Score."""
    alone = {name for group in spec.measures for name in GROUPS[group] if MEASURES[name].needs in _ALONE}
    groups = tuple(group for group in spec.measures if alone & set(GROUPS[group]))
    if not groups:
        return []
    once = spec.model_copy(update={"draws": 1, "bootstrap": 0, "measures": groups})
    scorer = Scorer(data, split, protocol, once, extractors, _rows_of(real_found, protocol.union))
    draw = _draws(real, real_found, protocol, conditional, request.seed)
    rows, _ = scorer.score(draw, conditional=conditional, emit=lambda *_, **__: None)
    return [{"set": "real images", **row} for row in rows if row["measure"] in alone and row["mean"] is not None]


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
    say: Say,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Score one half of the real subjects, and as many generated images, against the other half; mean over halvings."""
    pooled = data.as_one_class()
    measures = tuple(name for name in _AT_HALF if name in spec.measures)
    names = np.unique(real.subjects)
    if len(names) < 4 or not measures:
        if len(names) < 4:
            say(f"warning: {len(names)} subjects among the real images: no floor, and intervals mean nothing")
        return []
    once = spec.model_copy(update={"draws": 1, "bootstrap": 0, "measures": measures})
    values: dict[tuple[str, str, str], list[float]] = {}
    template: dict[tuple[str, str, str], dict[str, Any]] = {}
    for number in range(HALVES):
        progress("floor", number / HALVES, f"halving {number + 1} of {HALVES}")
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
