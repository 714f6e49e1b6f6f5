"""The embedded default data set: simulated brain slices of four scanners, made from the real MNI152 templates.

Knows anatomy and scanners, no model and no suite; needs no network (the templates ship inside nilearn). The true
process is known here, so fresh subjects can be drawn without end: that gives the exact floor of every distance.
Everything made here is called 'phantom'.

How a slice comes about. *Anatomy*: the average brain's tissue maps are bent by an affine map and two scales of smooth
displacement, the ventricles grow or shrink, and band-limited noise carves sulci of the subject's own into the cortex
(the template is an average: without own texture, blurry models would be favoured). *Tissue*: every subject has its own
grey matter, white matter and CSF intensities. *Scanner*: contrast curve, smooth bias field, blur, Rician noise. The
brain is extracted: outside it pixels are 0.

Lengths are millimetres of MNI space; arrays are ordered [slice, row, column] with rows from anterior to posterior.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bench.data.dataset import ImageDataset, content_fingerprint
from bench.data.mapped import mapped
from bench.seeds import numpy_rng

Array = NDArray[np.float32]
FIELD_OF_VIEW = (218, 182)
"""Height (front to back) and width in mm of the slices: the MNI 1 mm grid."""
CENTRE = (-0.5, -17.5, 18.5)
"""The middle of that grid in MNI coordinates (x, y, z)."""
TISSUES = {"grey": 0.66, "white": 0.87, "csf": 0.26}
"""Median T1 template value where a tissue's share exceeds 0.9 (measured on nilearn's templates)."""


@dataclass(frozen=True)
class Scanner:
    """What a scanner does to the signal; every subject's own values scatter about these.

    `contrast` stretches the signal about its middle, `brightness` is then added, `gamma` bends the curve; `bias` is
    the relative deviation of the sensitivity field, `blur` the point spread's deviation in mm, `noise` the deviation of
    each of the two channels in a 1 mm voxel, where 1 is the white end of the grey scale.
    """

    name: str
    subjects: int
    """Subjects in the sources' data, where 'natural' proportions come from."""
    contrast: float
    brightness: float
    gamma: float
    bias: float
    blur: float
    noise: float


SCANNERS = (
    Scanner("Gyroscan Intera", 322, contrast=1.30, brightness=-0.01, gamma=1.08, bias=0.03, blur=0.6, noise=0.040),
    Scanner("Intera", 185, contrast=1.00, brightness=0.10, gamma=0.92, bias=0.05, blur=0.5, noise=0.030),
    Scanner("Magnetom TrioTim", 494, contrast=1.00, brightness=0.00, gamma=1.00, bias=0.04, blur=0.5, noise=0.025),
    Scanner("Unspecified", 74, contrast=0.90, brightness=-0.01, gamma=1.00, bias=0.03, blur=2.0, noise=0.020),
)

Side = Annotated[int, Field(ge=16, le=1024)]


class ScannerPhantom:
    """Simulated axial brain slices of four MR scanners from the MNI152 templates (no download).

    One factor scales the whole 218 x 182 mm field of view so that it fits inside `image_size`; what is left of the
    image lies evenly around it and is 0. The pixel is thus max(218 / height, 182 / width) mm, the same in both
    directions. Slices are 1 mm apart, their middle at z = 18.5 mm. Subject k is the same in every set of the same seed,
    image size and number of slices, however many subjects there are (under the same proportions also its scanner).
    """

    version: ClassVar[int] = 1

    class Options(BaseModel):
        """What may be set in the suite."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        image_size: tuple[Side, Side] = Field((64, 64), description="height, width in pixels")
        subjects: int = Field(400, ge=4, le=100_000, description="number of subjects over all scanners")
        slices: int = Field(10, ge=1, le=40, description="central axial slices per subject")
        proportions: Literal["natural", "balanced"] = Field(
            "natural", description="subjects per scanner: 322:185:494:74 as in the sources, or equal"
        )
        seed: int = Field(0, ge=0, description="root of all randomness of the set")

    def __init__(self, options: Options) -> None:
        self.options = options

    def manifest(self) -> dict[str, Any]:
        """Return what the set depends on beside its options: the version of the package that ships the templates."""
        return {"nilearn": package_version("nilearn")}

    def prepare(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> ImageDataset:
        """Simulate every subject and write the set into `folder`; `progress` is told (subjects done, subjects)."""
        options = self.options
        scanners = self.scanners()
        per_subject = options.slices
        shape = (len(scanners) * per_subject, 1, *options.image_size)
        pixels = mapped(folder / "pixels.npy", np.uint8, shape)
        for k, scanner in enumerate(scanners):
            pixels[k * per_subject : (k + 1) * per_subject, 0] = self._subject(scanner, "set", k)
            if progress:
                progress(k + 1, len(scanners))
        pixels.flush()
        names = tuple(f"phantom-{k:04d}-slice{s}" for k in range(len(scanners)) for s in range(per_subject))
        labels = np.repeat(scanners, per_subject).astype(np.int64)
        subjects = np.repeat([f"phantom-{k:04d}" for k in range(len(scanners))], per_subject)
        class_names = tuple(scanner.name for scanner in SCANNERS)
        parameters = {"source": "scanner_phantom", "version": self.version, "options": options.model_dump(mode="json")}
        dataset = ImageDataset(
            pixels=pixels,
            labels=labels,
            class_names=class_names,
            subjects=subjects,
            names=names,
            fingerprint=content_fingerprint(pixels, labels, subjects, names, class_names, parameters),
            title="scanner phantom (simulated)",
            simulated=True,
            skipped=(),
        )
        dataset.save(folder)
        return dataset

    def fresh(self, n_per_class: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_]]:
        """Draw new subjects that are in no set, `n_per_class` slices of every scanner.

        Subjects give all their slices, as in the set; the last one of a scanner may give fewer. Different seeds give
        different subjects.

        Returns:
            images uint8 [n_per_class * 4, 1, height, width] in class order, labels and subjects of the same length.
        """
        images, labels, subjects = [], [], []
        for label in range(len(SCANNERS)):
            for start in range(0, n_per_class, self.options.slices):
                k = start // self.options.slices
                slices = self._subject(label, "fresh", seed, label, k)[: n_per_class - start]
                images.append(slices[:, None])
                labels += [label] * len(slices)
                subjects += [f"fresh-{seed}-{label}-{k:04d}"] * len(slices)
        empty = np.empty((0, 1, *self.options.image_size), np.uint8)
        return np.concatenate([empty, *images]), np.array(labels, np.int64), np.array(subjects, np.str_)

    def scanners(self) -> list[int]:
        """Return each subject's scanner: the one furthest behind its share, so that any number is in proportion."""
        natural = self.options.proportions == "natural"
        weights = np.array([scanner.subjects if natural else 1 for scanner in SCANNERS], dtype=np.float64)
        shares = weights / weights.sum()
        counts = np.zeros(len(SCANNERS))
        order = []
        for k in range(self.options.subjects):
            order.append(int(np.argmax(shares * (k + 1) - counts)))
            counts[order[-1]] += 1
        return order

    @cached_property
    def _atlas(self) -> Atlas:
        return Atlas(self.options.image_size, self.options.slices)

    def _subject(self, scanner: int, *stream: str | int) -> NDArray[np.uint8]:
        """Return one subject's slices, uint8 [slices, height, width]; anatomy and scanner have streams of their own."""
        anatomy, brain = simulate_anatomy(self._atlas, numpy_rng(self.options.seed, *stream, "anatomy"))
        rng = numpy_rng(self.options.seed, *stream, "scanner")
        return self._atlas.pixels(acquire(self._atlas, anatomy, SCANNERS[scanner], rng) * brain)


class Atlas:
    """The templates about the central slices, and the grid on which subjects are simulated.

    The grid is finer than the pixels by a whole factor, so that averaging its cells into pixels is the antialiasing.
    """

    def __init__(self, image_size: tuple[int, int], slices: int) -> None:
        from nilearn import datasets

        self.image_size = image_size
        pixel = max(FIELD_OF_VIEW[0] / image_size[0], FIELD_OF_VIEW[1] / image_size[1])
        self.cells = max(1, int(np.ceil(pixel / 1.8 - 1e-9)))
        self.spacing = pixel / self.cells
        self.visible = [min(side, round(view / pixel)) for side, view in zip(image_size, FIELD_OF_VIEW, strict=True)]
        rows, columns = (side * self.cells for side in self.visible)
        # mm from the centre of the field of view: z upwards, y to the front (so rows run backwards), x to the right
        self.z = (np.arange(slices) - (slices - 1) / 2).astype(np.float32)
        self.y = ((rows - 1) / 2 - np.arange(rows)).astype(np.float32) * np.float32(self.spacing)
        self.x = (np.arange(columns) - (columns - 1) / 2).astype(np.float32) * np.float32(self.spacing)

        image = datasets.load_mni152_template(resolution=1)
        self.origin = np.array(image.affine[:3, 3], dtype=np.float32)  # 1 mm voxels along the axes x, y, z
        below = max(0, int(CENTRE[2] + self.z[0] - self.origin[2]) - 20)
        above = int(CENTRE[2] + self.z[-1] - self.origin[2]) + 22
        self.origin[2] += below
        t1, grey, white = (
            np.asarray(load(resolution=1).dataobj, dtype=np.float32)[:, :, below:above]
            for load in (
                datasets.load_mni152_template,
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
            )
        )
        self._tissue_maps(t1, grey, white)

    def _tissue_maps(self, t1: Array, grey: Array, white: Array) -> None:
        """Derive the maps that subjects are bent from: tissue shares, T1 detail, depth, ventricles, cortex."""
        from scipy import ndimage

        brain = ndimage.binary_fill_holes(t1 > 0)
        csf = np.clip(1 - grey - white, 0, 1) * brain
        total = grey + white + csf + 1e-6
        grey, white, csf = grey / total, white / total, csf / total
        mixture = TISSUES["grey"] * grey + TISSUES["white"] * white + TISSUES["csf"] * csf
        depth = (ndimage.distance_transform_edt(brain) - ndimage.distance_transform_edt(~brain)).astype(np.float32)

        x, y, z = (
            np.arange(n, dtype=np.float32).reshape([-1 if axis == i else 1 for i in range(3)]) + self.origin[axis]
            for axis, n in enumerate(t1.shape)
        )
        # the deep brain (basal ganglia, thalamus, ventricles, callosum) keeps the template's shape, cortex gets its own
        radius = np.sqrt((x / 38) ** 2 + ((y + 12) / 50) ** 2 + ((z - 10) / 32) ** 2)
        cortex = _smoothstep((radius - 0.75) / 0.3) * _smoothstep((29 - depth) / 9)
        detail = ndimage.gaussian_filter((t1 - mixture) * brain * (1 - 0.85 * cortex), 0.5)
        ventricles = (csf > 0.5) & (radius < 0.85) & (depth > 12)
        distance = ndimage.distance_transform_edt(~ventricles) - ndimage.distance_transform_edt(ventricles)
        distance = ndimage.gaussian_filter(distance.astype(np.float32), 1.5)
        near = np.exp(-((distance / 9) ** 2)) * (1 - cortex)
        swelling_x, swelling_y = (near * np.gradient(distance, axis=axis) for axis in (0, 1))
        self.shape_maps = _stacked(depth, cortex, swelling_x, swelling_y)
        self.tissue_maps = _stacked(grey, white, cortex, detail)

        # Cortical noise is read at points pulled towards the surface: its sulci then run inwards from it, as real ones
        grid = np.stack(np.broadcast_arrays(*self._points()))
        self.inside = np.ones(grid.shape[1:], dtype=bool)
        smooth = ndimage.gaussian_filter(depth, 3)
        here, *inwards = self.sample(_stacked(depth, *np.gradient(smooth)), grid)
        self.inside = here > -15  # no subject's brain reaches further: affine and displacement stay below this
        self.pulled = grid - 0.75 * np.clip(here, 0, 24) * np.stack(inwards)

    def _points(self) -> tuple[Array, Array, Array]:
        """Return the grid's template coordinates x, y, z in mm, ready to broadcast to [slices, rows, columns]."""
        return (
            self.x[None, None, :] + np.float32(CENTRE[0]),
            self.y[None, :, None] + np.float32(CENTRE[1]),
            self.z[:, None, None] + np.float32(CENTRE[2]),
        )

    def sample(self, volumes: Array, points: Array) -> Array:
        """Interpolate template volumes [z, y, x, c] linearly at `points` [3, ...] in mm; returns [c, ...].

        The weights are computed once for all volumes; that is what makes this several times faster than SciPy's
        map_coordinates, volume by volume. Where the grid is known to see air only, the volumes' corner is returned.
        """
        depth, height, width, channels = volumes.shape
        chosen = points[:, self.inside] if points.ndim == 4 else points
        x, y, z = (
            np.clip(p - o, 0, n - 1.01) for p, o, n in zip(chosen, self.origin, (width, height, depth), strict=True)
        )
        ix, iy, iz = x.astype(np.int32), y.astype(np.int32), z.astype(np.int32)
        fx, fy, fz = x - ix, y - iy, z - iz
        first, table = (iz * height + iy) * width + ix, volumes.reshape(-1, channels)
        values = np.zeros((len(first), channels), np.float32)
        for dz, dy, dx in itertools.product((0, 1), repeat=3):
            weight = (fz if dz else 1 - fz) * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
            values += weight[:, None] * table.take(first + ((dz * height + dy) * width + dx), axis=0)
        if points.ndim == 2:
            return values.T
        grid = np.broadcast_to(table[0][:, None, None, None], (channels, *points.shape[1:])).copy()
        grid[:, self.inside] = values.T
        return grid

    def noise(self, rng: np.random.Generator, scale: float) -> Array:
        """Return a smooth random field on the grid with deviation 1, from cubic spline knots `scale` mm apart."""
        bases = [_spline_basis(axis, scale) for axis in (self.z, self.y, self.x)]
        field: Array = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
        # a sum of products of three weights a point, whose squares sum to 0.479 on average along each axis
        for axis, basis in enumerate(bases):
            field = np.moveaxis(np.tensordot(basis, field, axes=(1, axis)), 0, axis)
        return field / np.float32(0.479**1.5)

    def pixels(self, signal: Array) -> NDArray[np.uint8]:
        """Average the grid's cells into pixels, centre them in the image, quantise [0, 1] to 8 bits."""
        k, (rows, columns) = self.cells, self.visible
        small = signal.reshape(len(signal), rows, k, columns, k).mean(axis=(2, 4))
        image = np.zeros((len(signal), *self.image_size), np.uint8)
        top, left = (self.image_size[0] - rows) // 2, (self.image_size[1] - columns) // 2
        image[:, top : top + rows, left : left + columns] = np.rint(np.clip(small, 0, 1) * 255)
        return image


def simulate_anatomy(atlas: Atlas, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw one subject: its T1 signal before any scanner, and its brain mask in [0, 1], both on the atlas's grid."""
    from scipy import ndimage

    # what ages a brain: larger ventricles, wider sulci, darker grey matter
    atrophy = np.float32(np.clip(rng.normal(0, 1), -1.8, 2.5))
    points, depth = _bent(atlas, rng, atrophy)
    grey, white, cortex, detail = atlas.sample(atlas.tissue_maps, points)
    csf = np.clip(1 - grey - white, 0, 1)

    # sulci lie where a band-limited field changes sign: thin, branching, everywhere about as far apart
    folds = _folds(atlas, rng)
    sulcus, bank = np.exp(-((folds / 0.16) ** 2)), np.exp(-((folds / 0.62) ** 2))
    outer = cortex * _smoothstep((23 + 3 * atlas.noise(rng, 25) - depth) / 8)
    ribbon = _smoothstep((4.5 - depth) / 2.5)  # under the surface lies grey matter, everywhere
    logit_csf = np.log(csf + 0.02) + outer * (4.2 * sulcus - 0.6) + 0.35 * atrophy * cortex
    logit_grey = np.log(grey + 0.02) + outer * (1.1 * bank)
    logit_white = np.log(white + 0.05) + outer * (3.0 * (1 - bank) - 1.6 * bank) * (1 - ribbon) - 3.0 * ribbon
    logits = np.stack([logit_grey, logit_white, logit_csf]) * (1 + 1.6 * cortex)  # one brain's cortex is not blurred
    shares = np.exp(logits - logits.max(axis=0))
    shares /= shares.sum(axis=0)

    levels = np.array([0.525, 0.735, 0.16]) + rng.normal(0, [0.018, 0.015, 0.02])
    levels[0] -= 0.008 * atrophy
    signal = np.tensordot(levels.astype(np.float32), shares, axes=1)
    signal += (0.75 + 0.15 * rng.standard_normal()) * detail
    signal *= 1 + 0.012 * atlas.noise(rng, 9) + 0.018 * atlas.noise(rng, 3.5)
    return ndimage.gaussian_filter(signal, (0, 0.35, 0.35)), _smoothstep((depth + 0.3) / 1.4)


def _bent(atlas: Atlas, rng: np.random.Generator, atrophy: np.float32) -> tuple[Array, Array]:
    """Return where in the template each point of the subject comes from, [3, slices, rows, columns], and its depth."""
    turn, shear = np.deg2rad(rng.normal(0, 2.0)), rng.normal(0, 0.015)
    tilt = np.deg2rad(rng.normal(0, 2.5, size=2))
    scale = 1 + rng.normal(0, 0.025) + rng.normal(0, 0.025, size=3)
    x, y, z = atlas.x[None, None, :], atlas.y[None, :, None], atlas.z[:, None, None]
    matrix = np.array([[1, -turn + shear, 0], [turn, 1, 0], [tilt[0], tilt[1], 1]]) / scale[:, None]
    shift = rng.normal(0, [1.0, 1.5, 2.5])
    centre = np.array(CENTRE)
    affine = [matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] * z + shift[i] + centre[i] for i in range(3)]
    points: Array = np.stack(np.broadcast_arrays(*affine)).astype(np.float32)
    for axis, amount in enumerate((2.0, 2.0, 1.5)):
        points[axis] += amount * atlas.noise(rng, 50)
    # folding differs inside the cortex, while the skull keeps the outline smooth
    depth, cortex, *swelling = atlas.sample(atlas.shape_maps, points)
    folding = 2.4 * cortex * _smoothstep(depth / 9)
    for axis in range(3):
        points[axis] += folding * atlas.noise(rng, 14)
    growth = 1.3 + 1.5 * atrophy + 0.7 * np.float32(rng.standard_normal())
    for axis in range(2):
        points[axis] -= growth * swelling[axis]  # reading from further inside makes the ventricles larger
    return points, depth


def _folds(atlas: Atlas, rng: np.random.Generator) -> Array:
    """Return the field whose zeros are the subject's own sulci, deviation about 1, on the grid."""
    from scipy import ndimage

    field = atlas.noise(rng, 7.5)
    origin = np.array([atlas.x[0] + CENTRE[0], atlas.y[0] + CENTRE[1], atlas.z[0] + CENTRE[2]], np.float32)
    step = np.array([atlas.spacing, -atlas.spacing, 1.0], np.float32)
    index = (atlas.pulled - origin[:, None, None, None]) / step[:, None, None, None]
    folds: Array = ndimage.map_coordinates(field, index[::-1], order=1, mode="nearest", output=np.float32)
    return folds


def acquire(atlas: Atlas, anatomy: Array, scanner: Scanner, rng: np.random.Generator) -> Array:
    """Image one subject: contrast curve, bias field, blur and Rician noise; returns the signal on the atlas's grid."""
    from scipy import ndimage

    middle = 0.56
    contrast = scanner.contrast * np.exp(rng.normal(0, 0.045))
    brightness = scanner.brightness + rng.normal(0, 0.02)
    gamma = scanner.gamma * np.exp(rng.normal(0, 0.04))
    signal = np.clip(middle + contrast * (anatomy - middle) + brightness, 0, None)
    signal = middle * (signal / middle) ** gamma
    signal = signal * np.exp(scanner.bias * atlas.noise(rng, 70))
    blur = scanner.blur * np.exp(rng.normal(0, 0.12)) / atlas.spacing
    signal = ndimage.gaussian_filter(signal, (0, blur, blur))
    noise = scanner.noise * np.exp(rng.normal(0, 0.15)) / atlas.spacing  # a cell of s x s mm averages s^2 voxels
    channels = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(noise)
    received: Array = np.hypot(signal + channels[0], channels[1]).astype(np.float32)
    return received


def _smoothstep(t: Any) -> Array:
    """Rise smoothly from 0 at t <= 0 to 1 at t >= 1."""
    t = np.clip(t, 0, 1)
    step: Array = (t * t * (3 - 2 * t)).astype(np.float32)
    return step


def _stacked(*volumes: Array) -> Array:
    """Stack volumes [x, y, z] to [z, y, x, c], the order in which `Atlas.sample` reads them fastest."""
    return np.ascontiguousarray(np.stack(volumes, axis=-1).transpose(2, 1, 0, 3), dtype=np.float32)


def _spline_basis(positions: Array, scale: float) -> Array:
    """Return cubic B-spline weights [positions, knots] for knots `scale` apart."""
    u = positions / scale
    knots = np.arange(np.floor(u.min()) - 1, np.ceil(u.max()) + 2, dtype=np.float32)
    d = np.abs(u[:, None] - knots[None, :])
    inner, outer = 2 / 3 - d**2 + d**3 / 2, np.clip(2 - d, 0, None) ** 3 / 6
    basis: Array = np.where(d < 1, inner, outer).astype(np.float32)
    return basis
