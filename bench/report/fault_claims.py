"""What is known beforehand of fault controls: what is wrong with each, and which measures are said to see it.

Written down from the literature before anything was measured, so that a table can tell a measure that fails from a fault
that nobody claimed it would see. Facts only; `bench.report.faults` judges. Names are those of measures' records and of
families; `X by class` stands for the worst of measure X's numbers by class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Fault:
    """A fault control: what is wrong, who must see it, who must not."""

    wrong: str
    must: tuple[str, ...] = ()
    """Measures that must see it, each on at least one set of features; else the control did not come out as expected."""
    must_not: tuple[str, ...] = ()
    """Measures that must not, on any features."""
    drawn_from: Literal["validation", "train", ""] = "validation"
    """Whose images a draw takes without repetition; '' where what comes is the same few, or one, in every draw."""


@dataclass(frozen=True)
class Claim:
    """What a measure is said to see and not to see; of any other fault nothing is said."""

    sees: frozenset[str]
    blind: frozenset[str]
    source: str


COPIES = ("training_copy", "near_copy")
_COPYING = ("memorization", "near_copies")

FAULTS: dict[str, Fault] = {
    "held_out": Fault("Nothing: real validation images, the base of the other faults. Nothing may be seen."),
    "training_copy": Fault("Copies of training images.", ("memorization",), ("frechet_distance", "recall"), "train"),
    "near_copy": Fault(
        "Training images with a little noise and another brightness.", ("memorization",), drawn_from="train"
    ),
    "mean_image": Fault("The mean image of the class.", ("recall", "coverage", "frechet_distance"), _COPYING, ""),
    "one_mode": Fault(
        "Only what lies near one image of each class.", ("recall", "coverage"), ("precision", *_COPYING), ""
    ),
    "few_images": Fault(
        "A few images of each class over and over.", ("recall", "coverage"), ("precision", *_COPYING), ""
    ),
    "missing_classes": Fault(
        "Half of the classes never come.",
        ("recall", "coverage", "frechet_distance", "frechet_distance by class"),
        ("precision", *_COPYING),
    ),
    "shuffled_labels": Fault(
        "Half of the images heed no label.",
        ("frechet_distance by class", "class_accuracy"),
        ("frechet_distance", "kernel_distance", "precision", "recall", "coverage", *_COPYING),
    ),
    "blur": Fault("Blurred.", ("precision", "frechet_distance"), _COPYING),
    "low_resolution": Fault("Half the resolution.", ("precision", "frechet_distance"), _COPYING),
    "noise": Fault("Noise on every pixel.", ("precision", "frechet_distance"), _COPYING),
    "intensity": Fault("All brighter by one factor.", ("frechet_distance",), _COPYING),
    "upside_down": Fault("Upside down.", ("frechet_distance",), _COPYING),
    "mirrored": Fault("Left for right.", (), _COPYING),
    "swapped_halves": Fault("Upper and lower half have changed places.", ("frechet_distance",), _COPYING),
    "outliers": Fault("One image in ten is nothing but noise.", ("precision", "frechet_distance"), _COPYING),
}
"""Family of a control -> the fault it is; in the order in which they are shown."""


def _claim(sees: str, blind: str, source: str) -> Claim:
    known = set(FAULTS) - {"held_out"}
    named = set(sees.split()) | set(blind.split())
    assert named <= known, named - known
    assert not set(sees.split()) & set(blind.split())
    return Claim(frozenset(sees.split()), frozenset({*blind.split(), "held_out"}), source)


_DISTANCE = "mean_image one_mode missing_classes blur low_resolution noise swapped_halves outliers"
_COPY_NAMES = " ".join(COPIES)
_LEVELS = "mean_image noise intensity"
_PLACES = "training_copy shuffled_labels upside_down mirrored swapped_halves"
_REST = " ".join(name for name in FAULTS if name not in {*COPIES, "held_out"})

CLAIMS: dict[str, Claim] = {
    "frechet_distance": _claim(
        _DISTANCE,
        f"{_COPY_NAMES} shuffled_labels",
        "Heusel 2017 fig. 3 (noise, blur, disturbed regions, contamination), Lucic 2018 (dropped modes), Parmar 2022 "
        "(resizing); Meehan 2020 (not copies)",
    ),
    "frechet_distance_infinity": _claim(
        _DISTANCE, f"{_COPY_NAMES} shuffled_labels", "Chong & Forsyth 2020: the same distance without its bias"
    ),
    "kernel_distance": _claim(
        _DISTANCE, f"{_COPY_NAMES} shuffled_labels", "Binkowski 2018, Xu 2018 (collapsed and dropped modes, not copies)"
    ),
    "gaussian_kernel_distance": _claim(
        _DISTANCE,
        f"{_COPY_NAMES} shuffled_labels",
        "Gretton 2012 (tells any two distributions apart), Jayasumana 2024 (distortions)",
    ),
    "inception_score": _claim(
        "mean_image missing_classes",
        f"{_COPY_NAMES} one_mode few_images shuffled_labels",
        "Salimans 2016; Barratt & Sharma 2018 (neither copies nor variety within a class)",
    ),
    "inception_score_parts": _claim(
        "mean_image missing_classes", f"{_COPY_NAMES} one_mode few_images shuffled_labels", "as inception_score"
    ),
    "precision": _claim(
        "blur low_resolution noise swapped_halves outliers",
        f"{_COPY_NAMES} one_mode few_images missing_classes shuffled_labels",
        "Kynkäänniemi 2019 (fidelity, not variety)",
    ),
    "density": _claim(
        "blur low_resolution noise swapped_halves outliers",
        f"{_COPY_NAMES} one_mode few_images missing_classes shuffled_labels",
        "Naeem 2020",
    ),
    "recall": _claim(
        "mean_image one_mode few_images missing_classes",
        f"{_COPY_NAMES} shuffled_labels outliers",
        "Kynkäänniemi 2019 (variety); Naeem 2020 (outliers widen its balls)",
    ),
    "coverage": _claim(
        "mean_image one_mode few_images missing_classes", f"{_COPY_NAMES} shuffled_labels outliers", "Naeem 2020"
    ),
    "ssim_diversity": _claim("mean_image one_mode", _COPY_NAMES, "Odena 2017 (collapse within a class)"),
    "ms_ssim_diversity": _claim("mean_image one_mode", _COPY_NAMES, "Odena 2017 (collapse within a class)"),
    "intensity_kl": _claim(_LEVELS, _PLACES, "by definition: grey levels count, their places do not"),
    "intensity_js": _claim(_LEVELS, _PLACES, "by definition: grey levels count, their places do not"),
    "class_accuracy": _claim(
        "shuffled_labels missing_classes",
        f"{_COPY_NAMES} one_mode few_images",
        "Shmelkov 2018, Ravuri & Vinyals 2019 (labels, not variety)",
    ),
    "memorization": _claim(_COPY_NAMES, _REST, "Meehan 2020, Carlini 2023"),
    "near_copies": _claim(_COPY_NAMES, _REST, "Carlini 2023"),
    "frechet_distance by class": _claim(
        f"{_DISTANCE} shuffled_labels", _COPY_NAMES, "as pooled; Miyato & Koyama 2018 (intra-class FID: labels)"
    ),
    "frechet_distance_infinity by class": _claim(f"{_DISTANCE} shuffled_labels", _COPY_NAMES, "as pooled"),
    "kernel_distance by class": _claim(f"{_DISTANCE} shuffled_labels", _COPY_NAMES, "as pooled"),
    "gaussian_kernel_distance by class": _claim(f"{_DISTANCE} shuffled_labels", _COPY_NAMES, "as pooled"),
}
"""Measure -> what is said of it, whatever the features."""

GREY_LEVELS = ("random", "radiomics")
"""Features that are made of grey levels and texture: distances in them are also said to see a shift of intensity."""
TEXTURE = ("radiomics",)
"""Features that keep no place: the same numbers whichever way an image is turned, so nothing on them is said to see that."""
TURNED = frozenset({"upside_down", "mirrored"})
"""Faults that features without place can't see; of `swapped_halves`, a seam in an image that is right elsewhere, nothing is
said on them."""


def claim_on(name: str, features: str) -> Claim | None:
    """Return what is said of a measure (by class: 'NAME by class') on these features; None if nothing is."""
    said = CLAIMS.get(name)
    if said is None:
        return None
    sees, blind = said.sees, said.blind
    if features in GREY_LEVELS and "distance" in name:
        sees |= {"intensity"}
    if features in TEXTURE:
        sees, blind = sees - {"swapped_halves"}, blind | TURNED
    return Claim(sees, blind, said.source)
