"""The unfinished training of one run folder, kept on disk so that another process can go on with it bit for bit.

One safetensors file: flat tensors, and a JSON state in its header that says where each of them belongs. No pickle; whole
or absent (`bench.store`); a digest tells damage that the file system did not. It knows no training loop: what is kept is
any nesting of dicts, lists, numbers and tensors, and `bench.fit` says which.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bench.errors import BenchError
from bench.store import set_aside, there, write_bytes

FILE = "unfinished.safetensors"
SCHEMA = 2


class InterruptedJobError(BaseException):
    """The job was asked to stop; what there was to keep is kept.

    A signal may raise it anywhere: no `except Exception` on the way is to take it for a failure of its own.
    """


class Stateful(Protocol):
    """Whoever else has a state that belongs to a training, such as the progress scores so far."""

    def state(self) -> Any:
        """Return it: dicts, lists, numbers, tensors."""

    def restore(self, state: Any) -> None:
        """Take it up again."""


class Keeper:
    """Saves a training now and then, and gives back what an earlier process saved.

    Args:
        run: folder of the training.
        train_id: whose training it is.
        seconds: between two saves.
        emit: is warned of a damaged file, and of one that can't be written (training goes on then).
    """

    def __init__(self, run: Path, train_id: str, seconds: float, emit: Callable[..., None]) -> None:
        self._path, self._train_id, self._seconds, self._emit = run / FILE, train_id, seconds, emit
        self._saved = time.monotonic()
        self._also: dict[str, Stateful] = {}
        self.armed = False
        """Whether a training is at work that looks at `stopping` after every step."""
        self.stopping = False
        """Set by whoever wants the training to save and end."""
        self._found = self._load()

    @property
    def found(self) -> bool:
        """Whether there is something to go on with."""
        return self._found is not None

    def also(self, name: str, part: Stateful) -> None:
        """Keep this part's state too; it is given back at once if there is one."""
        self._also[name] = part
        if self._found is not None and name in self._found["also"]:
            part.restore(self._found["also"][name])

    def take(self) -> Any:
        """Return the training's own state as it was saved, once; None if there is none."""
        training = self._found["training"] if self._found else None
        self._found = None
        return training

    def refuse(self, error: Exception) -> NoReturn:
        """Set aside what was found, since the training can't take it up.

        Raises:
            BenchError: always, and says so.
        """
        first = (str(error).splitlines() or [type(error).__name__])[0]
        aside = set_aside(self._path)
        raise BenchError(
            f"the checkpoint {self._path} does not fit the family as it is now ({first}); set aside as {aside.name}: the "
            "same command trains it anew"
        ) from None

    def due(self) -> bool:
        """Whether it is time to save."""
        return self.stopping or time.monotonic() - self._saved >= self._seconds

    def save(self, training: Any) -> None:
        """Save this state of the training with that of all other parts.

        Raises:
            InterruptedJobError: the training was asked to stop; the state is saved.
        """
        also = {name: part.state() for name, part in self._also.items()}
        tensors: dict[str, Tensor] = {}
        try:
            state = _pack({"training": training, "also": also}, tensors)
            about = {"schema": SCHEMA, "train_id": self._train_id, "digest": _digest(state, tensors), "state": state}
            write_bytes(self._path, save(tensors, metadata={"medgenbench": json.dumps(about)}))
        except (BenchError, TypeError) as error:  # no room, or an optimiser's state that no file can hold
            self._emit("warning", text=f"no checkpoint: {error}")
        self._saved = time.monotonic()
        if self.stopping:
            raise InterruptedJobError

    def remove(self) -> None:
        """The training is over."""
        self._path.unlink(missing_ok=True)

    def _load(self) -> dict[str, Any] | None:
        if not there(self._path):
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                about = json.loads(file.metadata()["medgenbench"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            if about["schema"] != SCHEMA or about["train_id"] != self._train_id:
                raise ValueError("it belongs to another training or version")
            if about["digest"] != _digest(about["state"], tensors):
                raise ValueError("its content is not what was written")
            found: dict[str, Any] = _unpack(about["state"], tensors)
            return found
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            aside = set_aside(self._path)
            first = str(error).splitlines()[0]
            text = f"the checkpoint {self._path} is damaged ({first}): set aside as {aside.name}, training starts anew"
            self._emit("warning", text=text)
            return None


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a JSON value for `value`, whose tensors go to `tensors`; the inverse of `_unpack`.

    Tensors are copied (none may share memory in the file) and keep their strides: the fused optimisers walk through
    memory and not through indices, so that channels-last weights need channels-last moments.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name, "stride": list(value.stride())}
    if isinstance(value, dict):
        return {"dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint can't hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        found = tensors[value["tensor"]]
        return torch.empty_strided(found.shape, value["stride"], dtype=found.dtype).copy_(found)
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["dict"]}


def _digest(state: Any, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the state and every tensor's bytes."""
    digest = hashlib.sha256(json.dumps(state).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
