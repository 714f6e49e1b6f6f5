"""What each measure is called, its range, its better direction and what it needs; no code that computes anything.

Imports neither NumPy nor torch, so that suites, listings and reports can read it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """The record of one measure."""

    name: str
    title: str
    better: Literal["higher", "lower", "none"]
    """Direction of better; 'none' where a value is to be read against the real images' own, or beside another."""
    low: float
    """Least possible value."""
    high: float
    """Greatest possible value."""
    needs: Literal["features", "logits", "images", "reconstructions", "training images", "labelled images", "cost"]
    """What it is computed from."""
    group: str
    """Name under which a suite asks for it; 'cost' is always recorded."""
    reference: str
    version: int = 1
    """Raise it when a change of code changes numbers: older scores are then computed anew."""


_OF_A_CLASSIFIER = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "roc_auc": "ROC AUC",
}
_UTILITY = tuple(
    Measure(f"{prefix}_{name}", title.format(said), "higher", low, 1.0, "labelled images", "utility", reference)
    for prefix, title, low, reference in (
        ("tstr", "{} on real images after training on generated ones", 0.0, "Esteban 2017; Ravuri & Vinyals 2019"),
        ("augmented", "{} on real images after training on real and generated ones", 0.0, "Frid-Adar 2018"),
        ("gain", "gain in {} by generated images beside the real ones", -1.0, "Frid-Adar 2018"),
    )
    for name, said in _OF_A_CLASSIFIER.items()
)  # fmt: skip

_ALL = (
    Measure("frechet_distance", "Fréchet distance", "lower", 0.0, inf, "features", "frechet_distance", "Heusel 2017"),
    Measure(
        "frechet_distance_infinity", "Fréchet distance at infinite n", "lower", -inf, inf, "features",
        "frechet_distance_infinity", "Chong & Forsyth 2020",
    ),
    Measure("kernel_distance", "kernel distance", "lower", -inf, inf, "features", "kernel_distance", "Binkowski 2018"),
    Measure(
        "gaussian_kernel_distance", "Gaussian kernel distance", "lower", -2.0, 2.0, "features",
        "gaussian_kernel_distance", "Jayasumana 2024; bandwidth of Gretton 2012",
    ),
    Measure("inception_score", "Inception Score", "higher", 1.0, inf, "logits", "inception_score", "Salimans 2016"),
    Measure(
        "inception_score_parts", "Inception Score, mean of 10 parts", "higher", 1.0, inf, "logits", "inception_score",
        "Salimans 2016",
    ),
    Measure(
        "inception_score_parts_std", "Inception Score, deviation over 10 parts", "none", 0.0, inf, "logits",
        "inception_score", "Salimans 2016",
    ),
    Measure("precision", "precision", "higher", 0.0, 1.0, "features", "precision_recall", "Kynkäänniemi 2019"),
    Measure("recall", "recall", "higher", 0.0, 1.0, "features", "precision_recall", "Kynkäänniemi 2019"),
    Measure("density", "density", "higher", 0.0, inf, "features", "precision_recall", "Naeem 2020"),
    Measure("coverage", "coverage", "higher", 0.0, 1.0, "features", "precision_recall", "Naeem 2020"),
    # noise would win if lower were called better: the value belongs beside that of real images
    Measure("ssim_diversity", "SSIM of pairs within a class", "none", -1.0, 1.0, "images", "ssim", "Wang 2004; Odena 2017"),
    Measure(
        "ms_ssim_diversity", "MS-SSIM of pairs within a class", "none", 0.0, 1.0, "images", "ms_ssim",
        "Wang 2003; Odena 2017",
    ),
    Measure(
        "intensity_kl", "KL divergence of intensities in bits", "lower", 0.0, inf, "images", "intensity_histogram",
        "Kullback & Leibler 1951, real to generated",
    ),
    Measure(
        "intensity_js", "JS divergence of intensities in bits", "lower", 0.0, 1.0, "images", "intensity_histogram",
        "Lin 1991",
    ),
    Measure(
        "class_accuracy", "share recognised as the class asked for", "higher", 0.0, 1.0, "logits", "class_recognition",
        "Shmelkov 2018, GAN-test",
    ),
    Measure("ssim_reconstruction", "SSIM of reconstructions", "higher", -1.0, 1.0, "reconstructions", "ssim", "Wang 2004"),
    Measure(
        "mse_reconstruction", "mean squared error of reconstructions", "lower", 0.0, 1.0, "reconstructions", "ssim",
        "pixels in [0, 1]",
    ),
    Measure(
        "psnr_reconstruction", "PSNR of reconstructions in dB", "higher", 0.0, 58.93, "reconstructions", "psnr",
        "255 levels; equal images count as rounded",
    ),
    Measure(
        "nmse_reconstruction", "normalised squared error of reconstructions", "lower", 0.0, inf, "reconstructions", "psnr",
        "Zbontar 2018",
    ),
    Measure("lpips_reconstruction", "LPIPS of reconstructions", "lower", 0.0, inf, "reconstructions", "lpips", "Zhang 2018"),
    # a z-score: near 0 is right, below about -3 copies, far above 0 lies further off than real images do
    Measure(
        "memorization", "nearness to training images (C_T)", "none", -inf, inf, "training images", "memorization",
        "Meehan 2020, on ratios of Carlini 2023",
    ),
    Measure(
        "near_copies", "share of near copies of training images", "lower", 0.0, 1.0, "training images", "memorization",
        "Carlini 2023",
    ),
    *_UTILITY,
    Measure("training_seconds", "training time in s", "lower", 0.0, inf, "cost", "cost", "measured"),
    Measure("seconds_per_1000_samples", "seconds per 1,000 samples", "lower", 0.0, inf, "cost", "cost", "measured"),
    Measure("peak_memory_bytes", "peak memory in bytes", "lower", 0.0, inf, "cost", "cost", "measured"),
    Measure("parameters", "number of parameters", "none", 0.0, inf, "cost", "cost", "counted"),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
"""Every measure by name."""

COSTS: frozenset[str] = frozenset(measure.name for measure in _ALL if measure.group == "cost")
"""What a training or a sampling costs: recorded with every run, never asked for."""

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(measure.name for measure in _ALL if measure.group == group)
    for group in dict.fromkeys(measure.group for measure in _ALL if measure.name not in COSTS)
}
"""What a suite may ask for -> the measures it gets."""

FEW_TRAINING, FEW_VALIDATION = "few training images", "few validation images"
"""Flags of memorisation whose real images are too few to say what is near, or how near fresh ones lie."""

ON_REQUEST: frozenset[str] = frozenset({"lpips", "utility"})
"""Groups that a suite has to ask for. LPIPS: its weights are half a gigabyte, and were made for photographs; utility: its
classifiers cost more than all other measures together."""
