"""`bench list`: what there is by name, read from sources and records without importing anything heavy."""

from __future__ import annotations

from collections.abc import Iterator

from bench.metrics.records import MEASURES
from bench.registry import FEATURES, GENERATORS, SOURCES, Registry
from bench.search import tunable_names

_CONDITIONING = {"always": "conditional", "never": "unconditional", "optional": "either"}


def listing(what: str | None) -> Iterator[str]:
    """Yield the lines of one list, or of all with headings."""
    if what == "tuning":  # apart, since families must be imported for it
        yield from _tuning()
        return
    for name in (what,) if what else ("generators", "sources", "features", "measures"):
        if what is None:
            yield f"{name}:"
        yield from {"generators": _generators, "sources": _sources, "features": _features, "measures": _measures}[
            name
        ]()


def _generators() -> Iterator[str]:
    for name in GENERATORS.names():
        entry = GENERATORS.describe(name)
        said = entry.attributes
        condition = _CONDITIONING.get(str(said.get("conditioning", "never")), "")
        presets = f" [presets: {', '.join(said['presets'])}]" if said.get("presets") else ""
        yield f"  {name:<16} {said.get('family', ''):<12} {condition:<14} {said.get('source') or entry.target}{presets}"


def _tuning() -> Iterator[str]:
    for name in GENERATORS.names():
        family = GENERATORS.get(name)
        for key in tunable_names(family):
            field = family.Hyperparameters.model_fields[key]
            tune = field.json_schema_extra["tune"]
            scale = " (log)" if tune["log"] else ""
            only = "".join(f", where {other} is {value}" for other, value in tune["when"].items())
            span = f"{tune['low']:g} to {tune['high']:g}{scale}"
            yield f"  {name:<16} {key:<20} {span:<22} default {field.default:g}{only}"


def _plain(registry: Registry[object]) -> Iterator[str]:
    for name in registry.names():
        yield f"  {name:<16} {registry.describe(name).summary}"


def _sources() -> Iterator[str]:
    return _plain(SOURCES)


def _features() -> Iterator[str]:
    return _plain(FEATURES)


def _measures() -> Iterator[str]:
    arrows = {"lower": "lower is better", "higher": "higher is better", "none": ""}
    for measure in MEASURES.values():
        yield f"  {measure.name:<24} {arrows[measure.better]:<18} {measure.title} ({measure.reference})"
