"""One small registry for everything that has a name: families, data sources, features.

Targets are lazy ("module:attribute"), so that listing names imports nothing heavy; entry points let any installed
package add its own. A wrong name is answered with the nearest right one.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from bench.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Described:
    """What can be told of an entry without importing it, read from its source."""

    name: str
    target: str
    summary: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Registry(Generic[T]):
    """Names of one kind of thing, each bound to a lazy target.

    Args:
        kind: what the entries are called in messages, in the singular ("generator").
        group: entry point group read for further entries; none if left out.
        builtin: name -> "module:attribute".
    """

    def __init__(self, kind: str, *, group: str | None = None, builtin: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._group = group
        self._builtin = dict(builtin or {})
        self._found: dict[str, str] | None = None

    def _targets(self) -> dict[str, str]:
        if self._found is None:
            found = dict(self._builtin)
            for point in entry_points(group=self._group) if self._group else ():
                if found.setdefault(point.name, point.value) != point.value:
                    raise InputError(
                        f"two packages offer a {self.kind} called {point.name!r}: {found[point.name]} and "
                        f"{point.value}; uninstall one of them"
                    )
            self._found = found
        return self._found

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._targets())

    def check(self, name: str, where: str = "") -> str:
        """Return `name` if it is known; otherwise raise InputError with the nearest known name."""
        if name in self._targets():
            return name
        raise InputError(f"{where}unknown {self.kind} {name!r}; {suggestion(name, self.names())}")

    def get(self, name: str) -> T:
        """Import and return the entry.

        Raises:
            InputError: the name is unknown, or its package can't be imported.
        """
        module, _, attribute = self._targets()[self.check(name)].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(f"{self.kind} {name!r} ({module}:{attribute}) can't be loaded: {error}") from error

    def describe(self, name: str) -> Described:
        """Read summary and literal class attributes from the entry's source, importing nothing but its package."""
        target = self._targets()[self.check(name)]
        module, _, attribute = target.partition(":")
        try:
            spec = importlib.util.find_spec(module)
            source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
            definitions = {node.name: node for node in ast.parse(source or "").body if isinstance(node, ast.ClassDef)}
        except (ImportError, AttributeError, SyntaxError, ValueError):
            return Described(name, target)
        attributes: dict[str, Any] = {}
        node: ast.ClassDef | None = definitions.get(attribute)
        summary = ((ast.get_docstring(node) or "").splitlines() or [""])[0] if node else ""
        while node is not None:  # a class inherits what its bases in the same file say
            attributes = {**_literals(node), **attributes}
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            node = next((definitions[base] for base in bases if base in definitions), None)
        return Described(name, target, summary, attributes)


def suggestion(name: str, known: list[str]) -> str:
    """Say what the user may have meant: the nearest name, or the list of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            target, value = statement.target.id, statement.value
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            target, value = statement.targets[0].id, statement.value
        else:
            continue
        try:
            values[target] = ast.literal_eval(value)
        except ValueError:
            continue
    return values


GENERATORS: Registry[Any] = Registry("generator", group="bench.generators")
SOURCES: Registry[Any] = Registry(
    "source",
    group="bench.sources",
    builtin={
        "scanner_phantom": "bench.data.phantom:ScannerPhantom",
        "images": "bench.data.images:ImageFolder",
    },
)
FEATURES: Registry[Any] = Registry(
    "feature extractor",
    group="bench.features",
    builtin={
        "domain": "bench.metrics.domain:DomainFeatures",
        "random": "bench.metrics.features:RandomFeatures",
        "inception": "bench.metrics.inception:InceptionFeatures",
    },
)
