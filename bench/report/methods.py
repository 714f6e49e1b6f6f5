"""A methods paragraph made of the results: what was done, in sentences that can be pasted into a paper and cited.

Every sentence is derived from what the results folder holds, so that it can't say what was not done.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.metrics.records import MEASURES
from bench.registry import GENERATORS
from bench.report.pairs import ERROR, SEEDS_NEEDED, pairs
from bench.report.protocol import budget_unit, environments
from bench.report.results import Results
from bench.report.tables import first_distance, leading_keys, lines
from bench.report.tuning import prunes, studies

FEATURES = {
    "inception": "the pool features of an Inception network trained on ImageNet (Szegedy 2016)",
    "domain": "embeddings of small networks trained on the training images, cross-fitted by subject",
    "random": "pooled responses of untrained convolutions",
    "radiomics": "texture features",
    "vgg16": "features of a VGG-16 network trained on ImageNet (Simonyan 2015)",
}


def methods(results: Results) -> list[str]:
    """Return the paragraph as a list of sentences; joined by blanks they are the text."""
    found = [
        _data(results),
        _split(results),
        _trained(results),
        _tuned(results),
        _scored(results),
        _features(results),
        *_measures(results),
    ]
    return [sentence for sentence in [*found, _uncertainty(results), _controls(results), _machine(results)] if sentence]


def _data(results: Results) -> str:
    data = results.data
    channels, height, width = data["shape"]
    kind = "grey-scale" if channels == 1 else f"{channels}-channel"
    simulated = " The images are simulated and show no patients." if results.simulated else ""
    classes = (
        f" in {len(results.class_names)} classes ({', '.join(results.class_names)})"
        if len(results.class_names) > 1
        else ""
    )
    left = f"; {data['skipped']:,} unusable images were left out" if data.get("skipped") else ""
    return (
        f"Generative models were compared on {data['n']:,} {kind} images of {height} × {width} pixels from the {data['title']}"
        f"{classes}{left}.{simulated}"
    )


def _split(results: Results) -> str:
    split = results.split
    leaking = int(split.get("leaking_subjects") or 0)
    leak = f" {leaking} subjects had images on more than one side." if leaking else ""
    what = "subject, no subject having images on two sides" if split["by"] == "subject" and not leaking else split["by"]
    return (
        f"They were split into {split['train']:,} training, {split['validation']:,} validation and {split['test']:,} test "
        f"images by {what}, stratified by class (seed {split['seed']}).{leak}"
    )


def _trained(results: Results) -> str:
    families = [line for line in lines(results) if line.role == "family"]
    external = [line.generator for line in lines(results) if line.role == "external"]
    more = (
        f" {_join(external)} {'is a set' if len(external) == 1 else 'are sets'} of images made elsewhere."
        if external
        else ""
    )
    if not families:
        return f"Nothing was trained.{more}"
    named = _join([f"{line.generator}{_cited(line.runs[0].family)}" for line in families])
    budget = results.suite.get("budget") or {}
    unit = budget_unit(results)
    said = {
        "images_seen": "{:,} training images (repeats counted)",
        "epochs": "{:g} epochs",
        "minutes": "{:g} minutes of wall-clock time",
    }
    same = f" with the same budget of {said[unit].format(budget[unit])}" if unit in said else ""
    seeds = sorted({len(line.runs) for line in families})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    plural = "" if seeds == [1] else "s"
    each = "was" if len(families) == 1 else "were each"
    runs = [run for line in families for run in line.runs]
    bad = sum(not run.finished for run in runs)
    lost = f" {bad} of these {len(runs)} trainings did not finish and are reported as such." if bad else ""
    given = "with the hyper-parameters in the supplement"
    return f"{named} {each} trained{same} from {count} random seed{plural}, {given}.{lost}{more}"


def _tuned(results: Results) -> str:
    """How hyper-parameters were searched; '' where none were."""
    found = studies(results)
    if not found:
        return ""
    first, tuned = found[0]["search"]["spec"], [str(study["generator"]) for study in found]
    trials = _span([int(study["search"]["spec"]["trials"]) for study in found])
    images = _span([int(study["search"]["images_seen"]) for study in found])
    objective, *costs = [MEASURES[name].title if name in MEASURES else name for name in first["objective"]]
    beside = f", beside {_join(costs)}" if costs else ""
    early = "; trials worse than the median of the others were ended early" if prunes(first) else ""
    features = FEATURES.get(first["features"], f"{first['features']} features")
    rest = [line.generator for line in lines(results) if line.role == "family" and line.generator not in tuned]
    sampler = {"tpe": "TPE"}.get(first["sampler"], first["sampler"])
    kept = f" {_join(rest)} {'was' if len(rest) == 1 else 'were'} not tuned." if rest else ""
    going = " The searches have not all ended." if any(study["status"] == "running" for study in found) else ""
    return (
        f"The hyper-parameters of {_join(tuned)} were tuned beforehand with Optuna {found[0]['optuna']} "
        f"({sampler} sampler, seed {first['seed']}): "
        f"{trials} trial{'s' * (trials != '1')} per family of {images} training images each, the first with the default "
        f"values{early}. The objective was the {objective} between generated and {found[0]['validation_images']:,} validation "
        f"images ({features}){beside}; the values with the lowest {objective} were then trained anew.{kept}{going}"
    )


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _cited(family: str) -> str:
    if family not in GENERATORS.names():
        return ""
    source = GENERATORS.describe(family).attributes.get("source")
    return f" ({source})" if source else ""


def _scored(results: Results) -> str:
    rules = results.protocol
    each = f" ({rules['n_class']:,} per class)" if rules.get("n_class") else ""
    tuning = "tuning, " if studies(results) else ""
    return (
        f"Every trained model generated {rules['draws']} independent sets of images, quantised to 8 bits; each was compared "
        f"with {rules['n_all']:,} test images and as many generated ones{each}, the same numbers "
        f"for every model and both sides. No test image took part in training, {tuning}model choice or stopping."
    )


def _features(results: Results) -> str:
    used = [name for name, entry in results.features.items() if entry.get("status") == "ok"]
    if not used:
        return ""
    parts = []
    for name in used:
        entry = results.features[name]
        accuracy = (entry.get("details") or {}).get("held_out_accuracy")
        held = f", held-out accuracy {accuracy:.2f}" if accuracy is not None else ""
        parts.append(f"{FEATURES.get(name, name)} ({entry.get('dimensions')} dimensions{held})")
    return f"Distances are taken between features: {_join(parts)}."


def _measures(results: Results) -> list[str]:
    """Name the measures of the main table with their sources; the rest is in the table of measures."""
    leading = dict.fromkeys(key.measure for key in leading_keys(results) if key.measure in MEASURES)
    told = [f"{MEASURES[name].title} ({MEASURES[name].reference})" for name in leading]
    more = {key.measure for run in results.runs for key in run.scores} - set(leading)
    rest = " Further measures are given with their sources in the supplement." if more else ""
    return [f"We report {_join(told)}.{rest}"] if told else []


def _uncertainty(results: Results) -> str:
    replicates = results.protocol.get("replicates")
    first = first_distance(results)
    if not replicates or first is None:
        return ""
    many = any(line.finished > 1 for line in lines(results))
    over = " and over training seeds (Student's t)" if many else ""
    text = f"Intervals are 95 % by {replicates} bootstrap resamples of test subjects{over}."
    if pairs(results, first):
        return (
            f"{text} Models were compared pair by pair on the same resamples, p-values adjusted over all pairs (Holm, "
            f"{ERROR:.0%}); those not told apart share a rank."
        )
    return f"{text} No ranking is given: it takes {SEEDS_NEEDED} training seeds for at least two models."


def _controls(results: Results) -> str:
    floors = [line.generator for line in lines(results) if line.role == "floor"]
    controls = [line.generator for line in lines(results) if line.role == "control"]
    parts = []
    if floors:
        parts.append("distances between real images of different subjects at the same numbers serve as floor")
    if controls:
        parts.append(
            f"{_join(controls)} serve{'s' * (len(controls) == 1)} as controls whose outcome is known beforehand"
        )
    return f"{_join(parts)[:1].upper()}{_join(parts)[1:]}." if parts else ""


def _machine(results: Results) -> str:
    found = environments(results)
    if not found:
        return ""
    first = found[0]
    packages = [f"{name} {first[name]}" for name in ("python", "torch", "numpy", "torch-fidelity") if first.get(name)]
    gpu = first.get("gpu")
    device = (
        gpu if gpu and gpu != "–" else f"{first.get('processor', 'a processor')}, {first.get('threads', '?')} threads"
    )
    more = f" and {len(found) - 1} other environment{'s' * (len(found) > 2)}" if len(found) > 1 else ""
    ids = f"data {results.data['fingerprint']}, split {results.split['hash']}"
    return f"Computed with medgenbench {first.get('medgenbench', '')} on {device}{more} ({', '.join(packages)}; {ids})."


def _join(names: Sequence[str]) -> str:
    return "" if not names else names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
