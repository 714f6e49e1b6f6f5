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
        except (Exception, SystemExit) as error:  # whatever a package does when it is imported
            what = error if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
            raise InputError(f"{self.kind} {name!r} ({module}:{attribute}) can't be loaded: {what}") from error

    def describe(self, name: str) -> Described:
        """Read summary and literal class attributes from the entry's source, importing nothing but its package."""
        target = self._targets()[self.check(name)]
        module, _, attribute = target.partition(":")
        attributes: dict[str, Any] = {}
        summary: str | None = None
        while found := _definition(module, attribute):  # a class inherits what its bases say, in other files too
            tree, node = found
            if summary is None:
                summary = ((ast.get_docstring(node) or "").splitlines() or [""])[0]
            attributes = {**_literals(node), **attributes}
            base = next((base.id for base in node.bases if isinstance(base, ast.Name)), None)
            if base is None:
                break
            module, attribute = _imported(tree, base) or (module, base)
        return Described(name, target, summary or "", attributes)


def _definition(module: str, attribute: str) -> tuple[ast.Module, ast.ClassDef] | None:
    """The class's source as a tree, read without importing anything but its package; None if there is none."""
    try:
        spec = importlib.util.find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
        tree = ast.parse(source or "")
    except (ImportError, AttributeError, SyntaxError, ValueError):
        return None
    node = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == attribute), None)
    return (tree, node) if node else None


def _imported(tree: ast.Module, name: str) -> tuple[str, str] | None:
    """Where a name comes from, by the file's import statements."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module, alias.name
    return None


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
        "npz": "bench.data.arrays:NpzArrays",
        "idx": "bench.data.arrays:IdxFiles",
        "volumes": "bench.data.volumes:Volumes",
    },
)
FEATURES: Registry[Any] = Registry(
    "feature extractor",
    group="bench.features",
    builtin={
        "domain": "bench.metrics.domain:DomainFeatures",
        "random": "bench.metrics.features:RandomFeatures",
        "radiomics": "bench.metrics.radiomics:RadiomicsFeatures",
        "inception": "bench.metrics.inception:InceptionFeatures",
        "vgg16": "bench.metrics.fidelity:VGG16Features",
        "clip-rn50": "bench.metrics.fidelity:CLIPResNet50",
        "clip-rn101": "bench.metrics.fidelity:CLIPResNet101",
        "clip-rn50x4": "bench.metrics.fidelity:CLIPResNet50x4",
        "clip-rn50x16": "bench.metrics.fidelity:CLIPResNet50x16",
        "clip-rn50x64": "bench.metrics.fidelity:CLIPResNet50x64",
        "clip-vit-b-32": "bench.metrics.fidelity:CLIPViTB32",
        "clip-vit-b-16": "bench.metrics.fidelity:CLIPViTB16",
        "clip-vit-l-14": "bench.metrics.fidelity:CLIPViTL14",
        "clip-vit-l-14-336px": "bench.metrics.fidelity:CLIPViTL14Large",
        "dinov2-vit-s-14": "bench.metrics.fidelity:DINOv2Small",
        "dinov2-vit-b-14": "bench.metrics.fidelity:DINOv2Base",
        "dinov2-vit-l-14": "bench.metrics.fidelity:DINOv2Large",
        "dinov2-vit-g-14": "bench.metrics.fidelity:DINOv2Giant",
    },
)
