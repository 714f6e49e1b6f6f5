"""The suite file: what a user writes, as pydantic models, and every way it can be wrong as one clear message.

Reading is safe (no objects from YAML, no duplicate keys, bounded size); nothing here trains, measures or writes.
`load_suite` checks form and names without importing torch; `resolve` fills in each family's hyper-parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.errors import InputError
from bench.metrics.records import GROUPS, ON_REQUEST
from bench.registry import FEATURES, GENERATORS, SOURCES, suggestion
from bench.search import TuningSpec, tunable_names

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = frozenset({"floor_validation", "floor_fresh"})
MAX_BYTES = 1_000_000
MAX_NODES = 100_000

Location = tuple[str | int, ...]
Side = Annotated[int, Field(ge=8, le=4096)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fractions(_Model):
    """Shares of the subjects; they must add up to 1."""

    train: float = Field(0.6, gt=0, lt=1)
    validation: float = Field(0.15, gt=0, lt=1)
    test: float = Field(0.25, gt=0, lt=1)

    @model_validator(mode="after")
    def _sum(self) -> Fractions:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, not {total:g}")
        return self


class SplitSpec(_Model):
    """Who is trained on and who is tested on."""

    by: Literal["subject", "slice", "official"] = Field(
        "subject", description="official: the source's own parts; slice: as papers do, leaking subjects are counted"
    )
    fractions: Fractions = Fractions()
    seed: int = Field(0, ge=0)
    file: str | None = Field(None, description="CSV with 'split' and 'path' or 'subject', in place of a split by seed")
    folds: int | None = Field(None, ge=2, le=100, description="test is one of so many equal parts")
    fold: int = Field(0, ge=0, description="which of the folds, from 0")
    label_per: Literal["image", "subject"] = Field(
        "image", description="subject: a subject with images of several classes is an error"
    )
    duplicates: Literal["report", "drop"] = Field(
        "report", description="drop: images that repeat one of a later part leave the earlier (train first)"
    )

    @model_validator(mode="after")
    def _one_way(self) -> SplitSpec:
        if self.file is not None and (self.by != "subject" or self.folds is not None):
            raise ValueError("file: the table says all; leave by and folds out")
        if self.folds is not None and self.by == "official":
            raise ValueError("folds: the official split has none; leave one of them out")
        if self.fold and self.folds is None:
            raise ValueError("fold: give folds, how many there are")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold: 0 to {self.folds - 1}, of {self.folds} folds")
        return self


EXTERNAL = "external"
"""What stands in place of a generator's name where images were made elsewhere."""


class GeneratorSpec(_Model):
    """A row of the table: a family, with overrides of its hyper-parameters, or a folder of images made elsewhere."""

    name: str = Field(EXTERNAL, description="a registered generator: bench list generators")
    folder: str | None = Field(None, description="in place of a name: images made elsewhere (PNG, JPEG, TIFF)")
    label: str | None = Field(None, description="name of the row; the generator's name if left out")
    preset: str | None = Field(None, description="hyper-parameters of a source, by its name")
    unconditional: Literal["pooled", "per_class"] | None = Field(
        None, description="one model for all classes or one per class; the suite's if left out"
    )
    hyperparameters: dict[str, Any] = Field(default_factory=dict, description="overrides; the rest as in the source")
    tune: bool | tuple[str, ...] = Field(
        True, description="where the suite tunes: false keeps this row as it is, names tune these alone"
    )
    default_of: str | None = Field(None, description="filled in by tuning.compare_default: the tuned row beside it")

    @property
    def row(self) -> str:
        """The name of this row in tables, files and MLflow."""
        return self.label or self.name

    @field_validator("label")
    @classmethod
    def _label(cls, value: str | None) -> str | None:
        return value if value is None else check_name(value)

    @model_validator(mode="after")
    def _either(self) -> GeneratorSpec:
        if (self.folder is None) == (self.name == EXTERNAL):
            raise ValueError("give either a generator's name or a folder of images")
        if self.folder is not None and (self.preset or self.unconditional or self.hyperparameters):
            raise ValueError("a folder of images takes a label only")
        if self.folder is not None and self.label is None:
            raise ValueError("a folder of images needs a label: the name of its row")
        return self


class BudgetSpec(_Model):
    """What every family may use for training: exactly one of the three."""

    images_seen: int | None = Field(None, ge=1, description="images, repeats counted; the same for every family")
    epochs: float | None = Field(None, gt=0, description="passes over the training split")
    minutes: float | None = Field(None, gt=0, description="wall-clock; the results are not reproducible then")

    @model_validator(mode="after")
    def _one(self) -> BudgetSpec:
        if sum(value is not None for value in (self.images_seen, self.epochs, self.minutes)) != 1:
            raise ValueError("give exactly one of images_seen, epochs, minutes")
        return self


class ExtractorSpec(_Model):
    """How one kind of features is computed: a known network's weights and speed, or a network file of one's own."""

    weights: str | None = Field(None, description="file with a known network's weights; else its own download")
    file: str | None = Field(
        None, description="a network of your own: ONNX, or TorchScript, whose code runs: name trusted files only"
    )
    size: tuple[Side, Side] | None = Field(None, description="height and width that the file's network takes")
    channels: Literal[1, 3] = Field(
        3, description="of the file's network: grey is repeated, or colour made grey by luma"
    )
    mean: tuple[float, ...] = Field((), description="per channel, taken out of pixels in [0, 1] after resizing")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field((), description="per channel, divided by after that")
    resize: Literal["bilinear", "bicubic"] = Field("bilinear", description="both antialiased")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 states how far off it is")
    compiled: bool = Field(False, description="compile and freeze a known network; takes a C++ compiler and a minute")

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _either(self) -> ExtractorSpec:
        if self.file is None:
            if given := sorted({"size", "channels", "mean", "std", "resize"} & self.model_fields_set):
                raise ValueError(f"{given[0]} is for a network of your own: name its file, or leave {given[0]} out")
            return self
        if self.weights is not None:
            raise ValueError("a file holds its own weights: leave weights out")
        if self.size is None:
            raise ValueError("a file needs size: the height and width that its network takes")
        if self.compiled:
            raise ValueError("compiled is for the known networks: leave it out")
        if self.precision != "float32" and self.file.lower().endswith(".onnx"):
            raise ValueError("an ONNX file runs in its own precision: leave precision out")
        for what, values in (("mean", self.mean), ("std", self.std)):
            if values and len(values) != self.channels:
                raise ValueError(f"{what} needs {self.channels} number{'s' * (self.channels > 1)}, one per channel")
        return self


class UtilitySpec(_Model):
    """How classifiers are trained that tell what generated images are good for (measures: [..., utility])."""

    classifiers: int = Field(3, ge=2, le=100, description="networks for each kind of training images")
    images_seen: int = Field(
        20_000, ge=1_000, description="by each classifier, repeats counted; the same for every kind"
    )
    ratio: float = Field(1.0, gt=0, le=100, description="real plus generated: generated images seen for each real one")
    samples: int | None = Field(
        None, ge=1, description="generated images of each class; as many as it has training images if left out"
    )


class EvaluationSpec(_Model):
    """The protocol of scoring; a change here trains nothing anew."""

    draws: int = Field(20, ge=2, description="fresh generations behind every mean and deviation")
    samples_per_draw: int = Field(200, ge=10, description="per class; the smallest sufficient test class bounds it")
    few: int = Field(50, ge=10, description="a class with fewer test images is reported as too few")
    measures: tuple[str, ...] = tuple(group for group in GROUPS if group not in ON_REQUEST)
    extractors: dict[str, ExtractorSpec] = Field(
        default_factory=dict, description="how features are computed, and networks of one's own; by the features' name"
    )
    features: tuple[str, ...] = ("domain", "random")
    inception_weights: str | None = Field(None, description="the same as extractors.inception.weights")
    bootstrap: int = Field(200, ge=0, le=10_000, description="resamples of the test subjects behind every interval")
    utility: UtilitySpec = UtilitySpec()

    @field_validator("extractors")
    @classmethod
    def _usable(cls, value: dict[str, ExtractorSpec]) -> dict[str, ExtractorSpec]:
        for name, spec in value.items():
            if name not in FEATURES.names():
                if spec.file is None:
                    raise ValueError(
                        f"unknown features {name!r}; {suggestion(name, FEATURES.names())} A network of your own needs a file"
                    )
                check_name(name)
            elif spec.file is not None:
                raise ValueError(f"{name!r} are known features: give a network of your own another name")
            elif not FEATURES.describe(name).attributes.get("network"):
                raise ValueError(f"{name!r} features have no options")
        return value

    @model_validator(mode="after")
    def _one_file(self) -> EvaluationSpec:
        named = self.extractors.get("inception")
        if self.inception_weights is not None and named is not None and named.weights is not None:
            raise ValueError("inception_weights and extractors.inception.weights name the same thing: give one of them")
        return self

    def extractor(self, name: str) -> ExtractorSpec:
        """How these features are computed."""
        found = self.extractors.get(name, ExtractorSpec())
        if name == "inception" and self.inception_weights is not None:
            return found.model_copy(update={"weights": self.inception_weights})
        return found

    @field_validator("measures", "features")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if info.field_name == "features" and "extractors" not in info.data:
            return value  # the extractors are wrong, and that is told
        own = [name for name, spec in info.data.get("extractors", {}).items() if spec.file is not None]
        known = list(GROUPS) if info.field_name == "measures" else [*FEATURES.names(), *own]
        for name in value:
            if name not in known:
                raise ValueError(f"unknown {info.field_name[:-1]} {name!r}; {suggestion(name, known)}")
        if len(set(value)) != len(value):
            raise ValueError("a name stands here twice")
        return value


class ProgressSpec(_Model):
    """Distance and Inception Score while training goes on, measured on validation images.

    Not for controls, nor for one model per class, whose trainings follow each other.
    """

    points: int = Field(10, ge=0, le=100, description="how often, evenly over the budget; 0 for never")
    samples: int = Field(200, ge=10, description="images per point, bounded by the validation split")


class ReportedValue(_Model):
    """One number that somebody else printed."""

    system: str
    group: str = ""
    measure: str
    value: str = Field(description="as printed, deviation included")


class ReportedSpec(_Model):
    """What a source reports on its own data: shown apart, never ranked."""

    source: str
    data: str
    note: str = ""
    values: Annotated[tuple[ReportedValue, ...], Field(min_length=1)]


class TrackingSpec(_Model):
    """Where MLflow mirrors the results."""

    enabled: bool = True
    uri: str | None = Field(None, description="any MLflow tracking URI; mlflow.db in the results folder if left out")
    artifacts: str | None = Field(
        None,
        description="where MLflow keeps files (s3://..., a folder's file://...), for an experiment that is new there",
    )


class LimitsSpec(_Model):
    """What a job may use before it is ended and told as failed; not part of any id, since it changes no number."""

    minutes: float | None = Field(None, gt=0, description="wall-clock of a job; it goes on from there when run again")
    memory_gb: float | None = Field(None, gt=0, description="memory of a job's own, in 10^9 bytes; not the GPU's")
    idle_minutes: float = Field(30, gt=0, description="without a word and without processor time: it hangs")


class ResourcesSpec(_Model):
    """What a cluster's node sets apart for each job (--executor ray); not part of any id, since it changes no number."""

    cpus: float | None = Field(None, ge=0.01, description="processors; as many as threads if left out")
    gpus: float = Field(1, ge=0.01, le=1, description="share of a GPU, where jobs run on GPUs: 0.5 puts two on each")
    memory_gb: float | None = Field(
        None, gt=0, description="in 10^9 bytes; limits.memory_gb if left out, else what a job is expected to need"
    )


class Suite(_Model):
    """A suite file: data, split, generators, budget and protocol."""

    name: str = Field(description="letters, digits, '.', '_' and '-'; names the results folder")
    description: str = ""
    data: dict[str, Any] = Field(description="source and its options: bench list sources")
    split: SplitSpec = SplitSpec()
    generators: Annotated[tuple[GeneratorSpec, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    budget: BudgetSpec = BudgetSpec(images_seen=60_000)
    tuning: TuningSpec | None = Field(None, description="search hyper-parameters first; left out: as they are")
    evaluation: EvaluationSpec = EvaluationSpec()
    progress: ProgressSpec = ProgressSpec()
    unconditional: Literal["pooled", "per_class"] = Field(
        "pooled", description="unconditional families: one model for all classes, or one per class"
    )
    sampling: Literal["natural", "balanced"] = Field(
        "natural", description="of training images: balanced shows every family all classes equally often"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of training; auto is bfloat16 where the processor has it and the family allows it"
    )
    compile: bool = Field(
        False,
        description="networks by torch.compile: faster after a minute's start of every job, but not the same bits",
    )
    reported: tuple[ReportedSpec, ...] = Field((), description="numbers of a source on its own data, shown apart")
    tracking: TrackingSpec = TrackingSpec()
    threads: int | None = Field(None, ge=1, le=1024, description="threads of a job; all cores if left out")
    checkpoint_minutes: float = Field(5, gt=0, description="between two checkpoints of an unfinished training")
    limits: LimitsSpec = LimitsSpec()
    resources: ResourcesSpec = ResourcesSpec()
    patient_images: bool = Field(True, description="whether real images may stand in report and MLflow")
    for_results: bool = Field(True, description="false stamps every output 'not for results'")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)

    @field_validator("generators", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [{"name": item} if isinstance(item, str) else item for item in value] if _is_list(value) else value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a seed stands here twice")
        return value

    @property
    def source(self) -> str:
        """Name of the data source."""
        return str(self.data.get("source"))

    @property
    def paths(self) -> dict[str, str]:
        """Files and folders that jobs read beside the data set, by the key that names them."""
        named = {f"generators.{spec.row}.folder": spec.folder for spec in self.generators}
        for name, spec in self.evaluation.extractors.items():
            named |= {f"evaluation.extractors.{name}.{key}": getattr(spec, key) for key in ("weights", "file")}
        return {key: path for key, path in named.items() if path is not None}


def check_name(value: str) -> str:
    """Return `value` if it can name a folder everywhere; otherwise raise ValueError."""
    if not NAME.fullmatch(value) or value.endswith(".") or value in RESERVED:
        raise ValueError(
            f"{value!r} can't be a name: use letters, digits, '.', '_' and '-' (64 at most), not a reserved word"
        )
    return value


@dataclass(frozen=True)
class _Source:
    """Where the suite came from, for messages."""

    path: Path
    lines: Mapping[Location, int]

    def at(self, location: Sequence[str | int]) -> str:
        """Return 'file:line: key.path: ', as far as it is known."""
        where = tuple(location)
        line = next((self.lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in self.lines), None)
        dotted = ".".join(str(part) for part in where)
        return f"{self.path}{f':{line}' if line else ''}: {f'{dotted}: ' if dotted else ''}"


def load_suite(path: Path, overrides: Iterable[str] = ()) -> Suite:
    """Read and check a suite file.

    Args:
        path: the file; a name without folder, or a missing `suites/NAME.yaml`, is looked up among the shipped suites.
        overrides: `key.path=value`, the value in YAML.

    Raises:
        InputError: anything wrong with the file, its values or the overrides; all errors at once.
    """
    path = find_suite(path)
    content, lines = _read(path)
    source = _Source(path, lines)
    for override in overrides:
        _override(content, override)
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise InputError(_explain(error, source, Suite)) from None
    _check_names(suite, source)
    _check_tuning(suite, source)
    return _resolve_data(suite, source)


def resolve(suite: Suite, path: Path | None = None) -> Suite:
    """Fill in and check every family's hyper-parameters (imports the families, and so torch).

    Raises:
        InputError: an unknown hyper-parameter or a value out of range; all of them at once.
    """
    messages, specs = [], []
    source = _Source(path, _read(find_suite(path))[1]) if path else _Source(Path(suite.name), {})
    for index, spec in enumerate(suite.generators):
        if spec.folder is not None:
            specs.append(spec)
            continue
        family = _family(spec.name)
        if spec.preset and spec.preset not in family.presets:
            at = source.at(("generators", index, "preset"))
            messages.append(
                f"{at}{spec.name} has no preset {spec.preset!r}; {suggestion(spec.preset, list(family.presets))}"
            )
            continue
        given = {**family.presets.get(spec.preset or "", {}), **spec.hyperparameters}
        try:
            values = family.Hyperparameters.model_validate(given)
        except ValidationError as error:
            where = ("generators", index, "hyperparameters")
            messages.append(_explain(error, source, family.Hyperparameters, where))
            continue
        per_class = (spec.unconditional or suite.unconditional) == "per_class" and not family.heeds_labels(values)
        if spec.unconditional == "per_class" and not per_class:
            at = source.at(("generators", index, "unconditional"))
            messages.append(f"{at}{spec.row} is conditional: per_class is for families that are not; leave it out")
            continue
        resolved = {"hyperparameters": values.model_dump(mode="json")}
        specs.append(spec.model_copy(update={**resolved, "unconditional": "per_class" if per_class else "pooled"}))
    messages += _check_tuned_names(suite, source)
    if messages:
        raise InputError("\n".join(messages))
    return _with_defaults(suite.model_copy(update={"generators": tuple(specs)}))


def _family(name: str) -> Any:
    """Import a family; its package may offer anything under a generator's name."""
    from bench.model import TrainableModel

    family = GENERATORS.get(name)
    if not (isinstance(family, type) and issubclass(family, TrainableModel)):
        target = GENERATORS.describe(name).target
        raise InputError(f"generator {name!r} ({target}) is no class that derives from bench.model.GenerativeModel")
    return family


def read_extractors(overrides: Iterable[str]) -> dict[str, ExtractorSpec]:
    """Read `evaluation.extractors.NAME.KEY=VALUE`, as an evaluation without a suite takes it.

    Raises:
        InputError: another key, or anything wrong with a value.
    """
    content: dict[str, Any] = {}
    for override in overrides:
        if not override.startswith("evaluation.extractors."):
            raise InputError(f"--set {override}: without a RUN only evaluation.extractors.NAME.KEY=VALUE can be set")
        _override(content, override)
    try:
        return EvaluationSpec.model_validate(content.get("evaluation", {})).extractors
    except ValidationError as error:
        raise InputError(_explain(error, _Source(Path("--set"), {}), EvaluationSpec)) from None


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a suite file, the options of every data source included."""
    schema = Suite.model_json_schema()
    variants = []
    for name in SOURCES.names():
        options = SOURCES.get(name).Options.model_json_schema(ref_template=f"#/$defs/{name}_{{model}}")
        for key, value in options.pop("$defs", {}).items():
            schema["$defs"][f"{name}_{key}"] = value
        options["properties"] = {"source": {"const": name}, **options.get("properties", {})}
        options["required"] = ["source", *options.get("required", [])]
        variants.append(options)
    schema["properties"]["data"] = {"oneOf": variants, "description": "source and its options"}
    item = schema["properties"]["generators"]["items"]
    schema["properties"]["generators"]["items"] = {"anyOf": [{"type": "string", "enum": GENERATORS.names()}, item]}
    return schema


def find_suite(path: Path) -> Path:
    """Return the file itself, or the shipped suite of that name.

    Raises:
        InputError: neither exists.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; name a suite file (.yaml)")
    package = Path(__file__).resolve().parent
    shipped = next((folder for folder in (package / "suites", package.parent / "suites") if folder.is_dir()), None)
    names = sorted(file.stem for file in shipped.glob("*.yaml")) if shipped else []
    if shipped and path.parent in (Path(), Path("suites")) and path.stem in names:
        return shipped / f"{path.stem}.yaml"
    raise InputError(f"{path}: no such suite file; {suggestion(path.stem, names)} (shipped suites)")


def _read(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES:,} bytes; this is no suite file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read: {error}") from None
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except (
        Exception
    ) as error:  # the reader raises whatever it stumbles over: a mapping as a key, for one, is a TypeError
        mark = getattr(error, "problem_mark", None)
        what = error.problem if isinstance(error, MarkedYAMLError) else None
        what = what or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}{f':{mark.line + 1}' if mark else ''}: not valid YAML: {what}") from None
    lines: dict[Location, int] = {}
    try:
        plain = _plain(tree, (), lines, [0])
    except RecursionError:
        raise InputError(f"{path}: nested too deeply; this is no suite file") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(plain, dict):
        raise InputError(f"{path}: expected keys and values (name: ..., data: ..., generators: ...)")
    return plain, lines


def _plain(node: Any, where: Location, lines: dict[Location, int], count: list[int]) -> Any:
    """Turn ruamel's tree into plain values; note the line of every key on the way."""
    count[0] += 1
    if count[0] > MAX_NODES or len(where) > 50:
        raise ValueError("too many values (aliases that multiply?); this is no suite file")
    if isinstance(node, Mapping):
        for key in node:
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} must be text; quote it")
            lines[(*where, key)] = node.lc.data[key][0] + 1 if hasattr(node, "lc") and key in node.lc.data else 0
        return {str(key): _plain(value, (*where, str(key)), lines, count) for key, value in node.items()}
    if _is_list(node):
        for index in range(len(node)):
            if hasattr(node, "lc") and index in (node.lc.data or {}):
                lines[(*where, index)] = node.lc.data[index][0] + 1
        return [_plain(value, (*where, index), lines, count) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)  # dates, tagged scalars: text, which the models then judge


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _override(content: dict[str, Any], override: str) -> None:
    from ruamel.yaml import YAML

    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: write it as key.path=value, for example evaluation.draws=5")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except Exception:  # likewise
        raise InputError(f"--set {override}: the value is not valid YAML") from None
    *parents, last = key.split(".")
    node: Any = content
    for part in parents:
        if isinstance(node, dict):
            node = node.setdefault(part, {})
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise InputError(f"--set {override}: there is nothing below {part!r}")
    if isinstance(node, dict):
        if last in ("images_seen", "epochs", "minutes") and parents == ["budget"]:
            node.clear()  # the three exclude each other: the one that is set replaces the one that was
        node[last] = value
    elif isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    else:
        raise InputError(f"--set {override}: {'.'.join(parents) or 'the suite'} takes no key {last!r}")


def _check_names(suite: Suite, source: _Source) -> None:
    messages = []
    for index, spec in enumerate(suite.generators):
        try:
            if spec.folder is None:
                GENERATORS.check(spec.name, source.at(("generators", index)))
            elif not Path(spec.folder).is_dir():
                messages.append(f"{source.at(('generators', index, 'folder'))}{spec.folder}: no such folder")
        except InputError as error:
            messages.append(str(error))
    rows = [spec.row for spec in suite.generators]
    for index, row in enumerate(rows):
        if row in rows[:index]:
            messages.append(f"{source.at(('generators', index))}a second row {row!r}; give it a label of its own")
        if row in RESERVED:
            messages.append(f"{source.at(('generators', index))}{row!r} is a reserved name; give it another label")
    if messages:
        raise InputError("\n".join(messages))


def _check_tuning(suite: Suite, source: _Source) -> None:
    """See that what tunes does not rank, can be had without test images, and that the trials' budget is known."""
    spec = suite.tuning
    if spec is None:
        return
    at, own = source.at(("tuning", "features")), [name for name, how in suite.evaluation.extractors.items() if how.file]
    if spec.features == "domain":
        raise InputError(f"{at}domain features are fitted for ranking; tune on others, such as radiomics")
    if spec.features not in own:
        FEATURES.check(spec.features, at)
    if spec.features in suite.evaluation.features and not spec.allow_same_features:
        raise InputError(
            f"{at}{spec.features!r} features also rank (evaluation.features), and what tunes does not rank: name others, or "
            "set tuning.allow_same_features: true, which the report warns of"
        )
    if spec.images_seen is None and suite.budget.images_seen is None:
        raise InputError(f"{source.at(('tuning',))}images_seen is missing: the budget doesn't count images")


def _check_tuned_names(suite: Suite, source: _Source) -> list[str]:
    """What is wrong with the hyper-parameters that tuning is restricted to, a line each."""
    if suite.tuning is None:
        return []
    messages, known = [], dict[str, None]()
    for index, spec in enumerate(suite.generators):
        if spec.folder is None:
            names = tunable_names(GENERATORS.get(spec.name))
            known |= dict.fromkeys(names)
            for name in spec.tune if isinstance(spec.tune, tuple) else ():
                if name not in names:
                    at = source.at(("generators", index, "tune"))
                    messages.append(f"{at}{spec.name} has no tuning range for {name!r}; {suggestion(name, names)}")
    for name in suite.tuning.parameters:
        if name not in known:
            at = source.at(("tuning", "parameters"))
            messages.append(f"{at}no generator here has a tuning range for {name!r}; {suggestion(name, list(known))}")
    return messages


def _with_defaults(suite: Suite) -> Suite:
    """Put a row of the default values beside every row that is tuned, where the suite asks for it."""
    if suite.tuning is None or not suite.tuning.compare_default:
        return suite
    rows = {spec.row for spec in suite.generators}
    specs = []
    for spec in suite.generators:
        specs.append(spec)
        label = f"{spec.row}_default"
        if spec.folder is None and spec.tune and label not in rows and spec.default_of is None and _competes(spec):
            specs.append(spec.model_copy(update={"label": check_name(label), "tune": False, "default_of": spec.row}))
    return suite.model_copy(update={"generators": tuple(specs)})


def _competes(spec: GeneratorSpec) -> bool:
    return GENERATORS.get(spec.name).family != "control"


def _resolve_data(suite: Suite, source: _Source) -> Suite:
    options = dict(suite.data)
    name = options.pop("source", None)
    if not isinstance(name, str):
        raise InputError(f"{source.at(('data',))}source is missing; one of {', '.join(SOURCES.names())}")
    model = SOURCES.get(SOURCES.check(name, source.at(("data", "source")))).Options
    try:
        values = model.model_validate(options)
    except ValidationError as error:
        raise InputError(_explain(error, source, model, ("data",))) from None
    return suite.model_copy(update={"data": {"source": name, **values.model_dump(mode="json")}})


_CONTAINERS = ("tuple_type", "list_type", "dict_type")


def _place(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """A location without the names that pydantic gives to the kinds of a union."""
    return tuple(part for part in location if not (isinstance(part, str) and ("[" in part or part == "str")))


def _explain(error: ValidationError, source: _Source, model: type[BaseModel], prefix: Location = ()) -> str:
    """One line per error: file, line, key, what was expected, the nearest valid name."""
    messages = []
    errors = error.errors(include_url=False)
    told = {_place(other["loc"]) for other in errors if other["type"] not in _CONTAINERS}
    for item in errors:
        where = (*prefix, *_place(item["loc"]))
        if item["type"] in _CONTAINERS and _place(item["loc"]) in told:
            continue  # one of several kinds that are allowed here; what is wrong with the simple one is said
        within = [other for other in errors if other is not item and other["loc"][: len(item["loc"])] == item["loc"]]
        if item["type"] == "too_short" and within:
            continue  # only because the entry that is named anyway was not counted
        if item["type"] == "extra_forbidden":
            known = _keys(model, item["loc"][:-1])
            text = f"unknown key {item['loc'][-1]!r}; {suggestion(str(item['loc'][-1]), known)}"
            messages.append(source.at(where[:-1] if where not in source.lines else where) + text)
            continue
        if item["type"] == "missing":
            messages.append(f"{source.at(where[:-1])}the key {item['loc'][-1]!r} is missing")
            continue
        text = item["msg"].removeprefix("Value error, ")
        given = (
            ""
            if isinstance(item["input"], dict | list) or item["type"] == "value_error"
            else f", not {item['input']!r}"
        )
        messages.append(f"{source.at(where)}{text[0].lower()}{text[1:]}{given}")
    return "\n".join(dict.fromkeys(messages))


def _keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that are valid at a location below `model`."""
    current: Any = model
    named = False
    for part in location:
        if isinstance(part, int):
            continue
        if named:  # a key of a mapping, which leads to the model that its values are
            named = False
            continue
        field = current.model_fields.get(part) if isinstance(current, type) and issubclass(current, BaseModel) else None
        current = _inner(field.annotation) if field else None
        named = field is not None and getattr(field.annotation, "__origin__", None) is dict
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _inner(annotation: Any) -> Any:
    """The model inside a container annotation, if there is one."""
    if isinstance(annotation, type):
        return annotation
    inner = [_inner(argument) for argument in getattr(annotation, "__args__", ())]
    return next((item for item in inner if isinstance(item, type) and issubclass(item, BaseModel)), None)
