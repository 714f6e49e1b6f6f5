"""Slices of MR and CT volumes: NIfTI files and DICOM series, on the MNI grid or on their own.

The source: which volumes (`volume_files`), what becomes of one (`slicing`, `registration`), many at once (`volume_pool`);
here they become a set, and what can't be used is counted and named.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.data.contact import contact_sheet
from bench.data.dataset import CHUNK, ImageDataset, content_fingerprint
from bench.data.mapped import mapped
from bench.data.naming import class_names
from bench.data.registration import library_versions
from bench.data.slicing import Recipe
from bench.data.volume_files import Item, Where, find_volumes
from bench.data.volume_pool import Job, make_job, run_jobs, stamp
from bench.errors import InputError

SHEET = "contact_sheet.png"
_SHOWN = 40
"""Volumes of a class on the contact sheet."""


class Volumes:
    """Slices of NIfTI volumes or DICOM series, by folder, CSV or the layouts of IXI and SALD.

    Axes are made to run to the right, front and top. On the MNI grid a volume is registered (affine) or only centred; on
    its own grid its central planes are read and no other byte. Black and white are percentiles of each volume's foreground.
    """

    version: ClassVar[int] = 1

    class Options(Where):
        """What may be set in the suite."""

        max_skipped_fraction: float = Field(0.02, ge=0, le=1, description="share of unusable volumes put up with")

    def __init__(self, options: Options) -> None:
        self.options = options
        fields = Recipe.model_fields
        self.recipe = Recipe(**{name: value for name, value in options if name in fields})

    def manifest(self) -> list[Any]:
        """Return versions, and label, subject, size and time of change of every file.

        Raises:
            InputError: see `find_volumes`; dipy is needed and missing.
        """
        items = find_volumes(self.options)
        files = [[item.name, str(item.path), item.label, item.subject, stamp(item.path)] for item in items]
        return [self._versions(), files]

    def prepare(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> ImageDataset:
        """Slice every volume and write the set into `folder`; `progress` is told (volumes done, volumes).

        Raises:
            InputError: more than `max_skipped_fraction` of the volumes can't be used, or none of a class.
        """
        versions = self._versions()
        items = find_volumes(self.options)
        jobs = [make_job(item.path, self.recipe, versions, folder.parent, item.fault) for item in items]
        count = self.recipe.slices
        shape = (len(items) * count, 1, *self.recipe.image_size)
        dtype = np.uint8 if self.recipe.bits == 8 else np.uint16
        decoded = mapped(folder / "decoded.npy", dtype, shape)
        kept: list[Item] = []
        skipped: list[tuple[str, str]] = []
        for done, (item, result) in enumerate(zip(items, run_jobs(jobs), strict=True), 1):
            if isinstance(result, str):
                skipped.append((item.name, result))
            else:
                decoded[len(kept) * count : (len(kept) + 1) * count, 0] = result
                kept.append(item)
            if progress:
                progress(done, len(items))
        decoded.flush()
        self._check(items, kept, skipped)
        dataset = self._finish(folder, decoded, kept, skipped, versions)
        _forget(jobs)
        return dataset

    def _versions(self) -> dict[str, str]:
        return library_versions(self.recipe.registration) if self.recipe.grid == "mni" else {}

    def _check(self, items: list[Item], kept: list[Item], skipped: list[tuple[str, str]]) -> None:
        most = self.options.max_skipped_fraction
        if len(skipped) > most * len(items):
            first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
            raise InputError(
                f"{len(skipped)} of {len(items)} volumes can't be used ({first}{'; ...' if len(skipped) > 3 else ''}); "
                f"mend or remove them, or raise data.max_skipped_fraction (now {most:g})"
            )
        if lost := sorted({item.label for item in items if item.label} - {item.label for item in kept}):
            raise InputError(
                f"no volume of class {lost[0]!r} can be used ({skipped[0][0]}: {skipped[0][1]}); mend or leave it out"
            )

    def _finish(
        self,
        folder: Path,
        decoded: NDArray[Any],
        kept: list[Item],
        skipped: list[tuple[str, str]],
        versions: dict[str, str],
    ) -> ImageDataset:
        """Write the slices that there are, and everything that is known of them."""
        count = self.recipe.slices
        total = len(kept) * count
        if skipped:
            shape = (total, *decoded.shape[1:])
            pixels = mapped(folder / "pixels.npy", decoded.dtype, shape)
            for start in range(0, total, CHUNK):
                pixels[start : start + CHUNK] = decoded[start : min(start + CHUNK, total)]
            pixels.flush()
            (folder / "decoded.npy").unlink()
        else:
            (folder / "decoded.npy").rename(folder / "pixels.npy")
            pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        classes = class_names(self.options.classes, {item.label for item in kept})
        labels = np.repeat([classes.index(item.label) for item in kept], count).astype(np.int64)
        subjects = np.repeat([item.subject for item in kept], count).astype(np.str_)
        names = tuple(f"{item.name}-slice{number}" for item in kept for number in range(count))
        rules = {"source": "volumes", "version": self.version, **self.recipe.model_dump(mode="json"), "with": versions}
        roots = self.options.root if isinstance(self.options.root, tuple) else (self.options.root,)
        dataset = ImageDataset(
            pixels=pixels,
            labels=labels,
            class_names=classes,
            subjects=subjects,
            names=names,
            fingerprint=content_fingerprint(pixels, labels, subjects, names, classes, rules),
            title=self.options.title or f"volumes of {' and '.join(Path(root).resolve().name for root in roots)}",
            simulated=False,
            skipped=tuple(skipped),
        )
        shown = [np.flatnonzero(labels == label)[count // 2 :: count][:_SHOWN] for label in range(len(classes))]
        contact_sheet(dataset, [int(index) for group in shown for index in group]).save(folder / SHEET)
        dataset.save(folder)
        return dataset


def _forget(jobs: list[Job]) -> None:
    """Remove the parts of a set that is complete."""
    for job in jobs:
        job.part.unlink(missing_ok=True)
