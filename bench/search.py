"""What tuning may try: the suite's `tuning` block, and a family's ranges turned into a search space.

Plain records: no Optuna, no torch. Ranges are declared where hyper-parameters are (`bench.model.tunable`); trials, their
budget and the objective are the same for every family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

QUALITY = ("frechet_distance", "kernel_distance")
"""Objectives that say how good the images are; the first objective is one of them."""
COSTS = ("training_seconds", "seconds_per_1000_samples", "parameters")
"""Objectives that may stand beside it; all objectives are the lower the better."""
SHARE = 0.25
"""Images a trial sees if the suite doesn't say: this share of the budget of a training."""

Objective = Literal["frechet_distance", "kernel_distance", "training_seconds", "seconds_per_1000_samples", "parameters"]


class TuningSpec(BaseModel):
    """How hyper-parameters are tuned before the trainings that are scored: alike for every family, controls excepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(8, ge=1, le=10_000, description="per family; the first one has the default values")
    images_seen: int | None = Field(
        None, ge=2, description="by each trial; a quarter of the budget's if left out, where that counts images"
    )
    objective: Annotated[tuple[Objective, ...], Field(min_length=1)] = Field(
        ("frechet_distance",), description="one, or a quality and costs; the first one decides which values are taken"
    )
    features: str = Field("radiomics", description="of the objective; others than those of the evaluation")
    allow_same_features: bool = Field(False, description="tune on features that rank, which the report warns of")
    samples: int = Field(200, ge=10, description="images per look, bounded by the validation split")
    points: int = Field(4, ge=1, le=100, description="looks at a trial, evenly over its budget; the last is its end")
    pruning: bool | None = Field(
        None, description="end hopeless trials early; on if left out, which several objectives can't have"
    )
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = Field(0, ge=0, description="of suggestions and of the trials' trainings")
    parameters: tuple[str, ...] = Field((), description="tune these alone, in the families that have them")
    workers: int | None = Field(None, ge=1, description="trials at once; as many as jobs if left out")
    storage: str = Field(
        "journal", description="of the studies: journal or sqlite in the results folder, or any Optuna storage URL"
    )
    compare_default: bool = Field(False, description="also train and score every tuned row with its default values")

    @field_validator("objective", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("objective")
    @classmethod
    def _quality_first(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and value[0] not in QUALITY:
            raise ValueError(f"the first objective decides: one of {' and '.join(QUALITY)}; {value[0]} may follow it")
        if len(set(value)) != len(value):
            raise ValueError("an objective stands here twice")
        return value

    @field_validator("storage")
    @classmethod
    def _reachable(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if value not in ("journal", "sqlite") and not (separator and scheme):
            raise ValueError(f"journal, sqlite or a URL such as postgresql://host/database, not {value!r}")
        account = rest.partition("/")[0].rpartition("@")[0]
        if ":" in account:
            raise ValueError(
                "leave the password out of the URL, since results show the suite; PostgreSQL takes it from PGPASSWORD or "
                "~/.pgpass"
            )
        return value

    @model_validator(mode="after")
    def _possible(self) -> TuningSpec:
        if self.pruning and len(self.objective) > 1:
            raise ValueError("pruning goes by one objective: leave it out with several")
        return self

    @property
    def in_a_file(self) -> bool:
        """Whether the studies are files of the results folder, and not in a database elsewhere."""
        return self.storage in ("journal", "sqlite")

    @property
    def prunes(self) -> bool:
        """Whether hopeless trials are ended early."""
        return len(self.objective) == 1 if self.pruning is None else self.pruning


@dataclass(frozen=True)
class Range:
    """Where a hyper-parameter is searched."""

    low: float
    high: float
    log: bool
    integer: bool
    default: float
    """The row's own value, which the first trial has; within the range."""

    def to_json(self) -> dict[str, Any]:
        """Return it as it goes into ids and records."""
        return asdict(self)


def space(family: type[Any], values: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Range]:
    """Return what of a family's hyper-parameters is searched, by name.

    Args:
        family: has `Hyperparameters`, some of them declared by `bench.model.tunable`.
        values: the row's own hyper-parameters, all of them. A range that holds its own value not is widened to hold it.
        names: search these alone; all if empty.
    """
    found: dict[str, Range] = {}
    for name, field in family.Hyperparameters.model_fields.items():
        tune = (field.json_schema_extra or {}).get("tune") if isinstance(field.json_schema_extra, dict) else None
        if not isinstance(tune, dict) or (names and name not in names):
            continue
        if any(values.get(other) != wanted for other, wanted in tune.get("when", {}).items()):
            continue
        own, log = values[name], bool(tune["log"])
        if own is None or (log and own <= 0):  # switched off by the suite: there is no way from nothing to something
            continue
        low, high = min(tune["low"], own), max(tune["high"], own)
        if all(_accepts(family, {**values, name: end}) for end in (low, high)):  # the others' values may forbid it
            found[name] = Range(low, high, log, field.annotation is int, own)
    return found


def _accepts(family: type[Any], values: Mapping[str, Any]) -> bool:
    try:
        family.Hyperparameters.model_validate(values)
    except ValidationError:
        return False
    return True


def tunable_names(family: type[Any]) -> list[str]:
    """Return every hyper-parameter of a family that has a tuning range, whatever the others' values."""
    extras = {name: field.json_schema_extra for name, field in family.Hyperparameters.model_fields.items()}
    return [name for name, extra in extras.items() if isinstance(extra, dict) and "tune" in extra]


@dataclass(frozen=True)
class Search:
    """The search of one row: what is tried, within which budget, and where its record lies."""

    row: str
    study_id: str
    folder: Path
    space: Mapping[str, Range]
    images_seen: int
    """By each trial."""
    spec: TuningSpec

    @property
    def name(self) -> str:
        """The study's, in its storage: the same wherever the same is searched."""
        return f"{self.row}-{self.study_id}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        ranges = {name: within.to_json() for name, within in self.space.items()}
        spec = self.spec.model_dump(mode="json")
        plain = {"row": self.row, "study_id": self.study_id, "images_seen": self.images_seen}
        return {**plain, "folder": str(self.folder), "space": ranges, "spec": spec}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Search:
        """Return the search that `to_json` wrote."""
        ranges = {name: Range(**within) for name, within in value["space"].items()}
        spec = TuningSpec.model_validate(value["spec"])
        return cls(value["row"], value["study_id"], Path(value["folder"]), ranges, value["images_seen"], spec)
