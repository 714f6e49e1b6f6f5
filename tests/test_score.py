"""`bench evaluate` on images from anywhere: right numbers or a clear message, never a silent wrong number."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.errors import InputError
from bench.metrics.frechet import FrechetReference
from bench.registry import FEATURES
from bench.score import COLUMNS, Request, check_writable, score, write_rows

CPU = torch.device("cpu")


def blobs(count: int, seed: int, size: int = 24) -> np.ndarray:
    """Bright spots anywhere on a noisy ground: uint8 [count, 1, size, size]."""
    rng = np.random.default_rng(seed)
    images = rng.normal(60, 15, (count, 1, size, size))
    for image, (y, x) in zip(images, rng.integers(4, size - 8, (count, 2)), strict=True):
        image[0, y : y + 6, x : x + 6] += 120
    return images.clip(0, 255).astype(np.uint8)


def save(folder, images, prefix="p"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(
            folder / f"{prefix}{number:03d}.png"
        )
    return folder


def scores(real, generated, lines=None, **options):
    rows = score(Request(real=real, generated=generated, **options), (lines if lines is not None else []).append, CPU)
    assert all(tuple(row) == COLUMNS for row in rows)
    return {(row["set"], row["class"], row["measure"]): row for row in rows}


@pytest.fixture
def sides(tmp_path):
    return save(tmp_path / "real", blobs(60, 0)), save(tmp_path / "generated", blobs(60, 1))


def test_numbers_are_those_of_the_measure_itself(sides):
    """One draw of all 60: the Fréchet distance is that of the extracted features, computed here by hand."""
    found = scores(*sides)["generated", "all", "frechet_distance"]
    extractor = FEATURES.get("random")(device=CPU)
    expected = FrechetReference(extractor(blobs(60, 0)).features).distance(extractor(blobs(60, 1)).features)
    assert found["mean"] == pytest.approx(expected, rel=1e-6)
    assert (found["n_real"], found["n_generated"], found["draws"], found["std"]) == (60, 60, 1, None)
    assert found["lower"] < found["mean"] < found["upper"]


def test_the_same_images_are_at_distance_nought_and_better_than_the_floor(sides):
    real, _ = sides
    found = scores(real, real)
    assert found["generated", "all", "frechet_distance"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["generated", "all", "coverage"]["mean"] == 1
    assert found["floor: real halves", "all", "frechet_distance"]["mean"] > 0


def test_floor_tells_a_good_set_from_a_bad_one(sides, tmp_path):
    """At the same n a set from the same source lies about the floor, a shifted one far above it."""
    real, good = sides
    bad = save(tmp_path / "bad", 255 - blobs(60, 2))
    near, far = (scores(real, side, measures=("frechet_distance",)) for side in (good, bad))
    floor = near["floor: real halves", "all", "frechet_distance"]
    assert abs(near["generated, n of the floor", "all", "frechet_distance"]["mean"] - floor["mean"]) < 6 * floor["std"]
    assert far["generated, n of the floor", "all", "frechet_distance"]["mean"] > floor["mean"] + 20 * floor["std"]


@pytest.mark.parametrize("layout", ["nhw", "nchw", "nhwc", "float", "npz"])
def test_arrays_give_the_numbers_of_the_folder(sides, tmp_path, layout):
    images = blobs(60, 1)
    arrays = {"nhw": images[:, 0], "nchw": images, "nhwc": images.transpose(0, 2, 3, 1), "float": images / 255.0}
    path = tmp_path / ("array.npz" if layout == "npz" else "array.npy")
    if layout == "npz":
        np.savez_compressed(path, images=images)
    else:
        np.save(path, arrays[layout])
    expected, found = scores(*sides), scores(sides[0], path)
    for key, row in expected.items():
        assert found[key]["mean"] == pytest.approx(row["mean"], rel=1e-6, abs=1e-9), key


def test_classes_are_scored_each_and_together(tmp_path):
    for side, seed in (("real", 0), ("generated", 10)):
        for number, name in enumerate(("left", "right")):
            save(tmp_path / side / name, blobs(60, seed + number))
    found = scores(tmp_path / "real", tmp_path / "generated")
    assert {group for _, group, _ in found} == {"all", "left", "right"}
    (tmp_path / "generated" / "left").rename(tmp_path / "generated" / "lft")
    with pytest.raises(InputError, match=r"only on one side: left, lft"):
        scores(tmp_path / "real", tmp_path / "generated")


def test_a_class_that_one_side_lacks_is_named(tmp_path):
    """Also where only one is left: its folder bears a class's name, so it is not a set without classes."""
    for number, name in enumerate(("left", "right")):
        save(tmp_path / "real" / name, blobs(30, number))
    save(tmp_path / "generated" / "left", blobs(60, 3))
    with pytest.raises(InputError, match=r"classes left against real left, right; only on one side: right"):
        scores(tmp_path / "real", tmp_path / "generated")
    np.savez(tmp_path / "left.npz", images=blobs(60, 3), labels=np.full(60, "left"))
    with pytest.raises(InputError, match="only on one side: right"):
        scores(tmp_path / "real", tmp_path / "left.npz")
    save(tmp_path / "generated" / "right", blobs(30, 4))
    (tmp_path / "generated" / "upright").mkdir()
    told = r"^--generated: the class folder 'upright' holds no images .*; fill it or remove it$"
    with pytest.raises(InputError, match=told):
        scores(tmp_path / "real", tmp_path / "generated")


def test_classes_on_one_side_only_are_one_set_and_that_is_said(sides, tmp_path):
    for number, name in enumerate(("left", "right")):
        save(tmp_path / "by class" / name, blobs(40, number))
    lines = []
    found = scores(tmp_path / "by class", sides[1], lines)
    assert {group for _, group, _ in found} == {"all"}
    assert any("only the real images have classes" in line for line in lines)


def test_draws_share_no_image_while_there_are_enough(sides):
    found = scores(*sides, n=20)["generated", "all", "frechet_distance"]
    assert (found["draws"], found["n_generated"]) == (3, 20)
    assert found["std"] > 0
    lines = []
    scores(*sides, lines, n=40, draws=4, measures=("frechet_distance",))
    assert any("share images" in line for line in lines)


@pytest.mark.parametrize(
    ("real", "generated"),
    [((10, 30), (10, 160)), ((60, 20), (20, 20)), ((30, 30), (30, 90)), ((12, 50), (13, 50))],
)
def test_draws_of_uneven_classes_share_no_image_and_match_the_real_mix(tmp_path, real, generated):
    for side, counts, seed in (("real", real, 1), ("generated", generated, 5)):
        for label, count in zip("ab", counts, strict=True):
            save(tmp_path / side / label, blobs(count, seed + ord(label)))
    found = scores(tmp_path / "real", tmp_path / "generated", measures=("frechet_distance",))
    draws = found["generated", "all", "frechet_distance"]["draws"]
    for name in ("all", "a", "b"):
        row = found["generated", name, "frechet_distance"]
        assert row["n_real"] == row["n_generated"], (name, row)
        assert "only" not in row["flag"]
        assert row["std"] is None or row["std"] > 1e-9, "a draw came twice"
    assert draws <= min(generated) // 10


def test_a_class_too_small_for_its_share_is_told_and_flagged(tmp_path):
    for side, counts, seed in (("real", (40, 15), 1), ("generated", (13, 300), 5)):
        for label, count in zip("ab", counts, strict=True):
            save(tmp_path / side / label, blobs(count, seed + ord(label)))
    lines = []
    found = scores(tmp_path / "real", tmp_path / "generated", lines, measures=("frechet_distance",))
    assert any("too few generated images of a for their share" in line for line in lines)
    assert "only 18 images" in found["generated", "all", "frechet_distance"]["flag"]


def test_copies_of_the_training_images_are_seen(tmp_path):
    training, fresh = blobs(150, 3), blobs(150, 4)
    real = save(tmp_path / "real", blobs(150, 5))
    train = save(tmp_path / "train", training)
    caught = scores(real, save(tmp_path / "copies", training), train=train)
    free = scores(real, save(tmp_path / "fresh", fresh), train=train)
    assert caught["generated", "all", "near_copies"]["mean"] > 0.95
    assert caught["generated", "all", "memorization"]["mean"] < -5
    assert free["generated", "all", "near_copies"]["mean"] < 0.1
    assert "few" not in free["generated", "all", "memorization"]["flag"]


def test_memorisation_by_few_real_images_is_flagged(sides, tmp_path):
    """60 images held out and 40 trained on: numbers come of it, and none of them is to be trusted."""
    found = scores(*sides, train=save(tmp_path / "train", blobs(40, 7)))
    for measure in ("memorization", "near_copies"):
        assert found["generated", "all", measure]["flag"] == "few training images; few validation images"
    assert found["generated", "all", "intensity_js"]["flag"] == ""
    lots = save(tmp_path / "train", blobs(51, 8))
    assert scores(*sides, train=lots)["generated", "all", "near_copies"]["flag"] == "few validation images"


def test_sixteen_bits_equal_eight(sides, tmp_path):
    """The same images stored deeper: 257 times each value, or 12 bits with the window that says so."""
    expected = scores(*sides)["generated", "all", "frechet_distance"]["mean"]
    for factor, options in ((257, {}), (16, {"window": (0, 255 * 16)})):
        folder = tmp_path / str(factor)
        folder.mkdir()
        for number, image in enumerate(blobs(60, 1)):
            Image.fromarray(image[0].astype(np.uint16) * factor).save(folder / f"{number:03d}.png")
        found = scores(sides[0], folder, **options)["generated", "all", "frechet_distance"]["mean"]
        assert found == pytest.approx(expected, rel=1e-3), factor
    with pytest.raises(InputError, match=r"--generated: images of more than 8 bits with no value above .* --window 0"):
        scores(sides[0], tmp_path / "16")


def test_equal_channels_are_grey_and_colour_is_asked_about(sides, tmp_path):
    colour = np.repeat(blobs(60, 1), 3, axis=1)
    expected = scores(*sides)["generated", "all", "frechet_distance"]["mean"]
    found = scores(sides[0], save(tmp_path / "equal", colour))["generated", "all", "frechet_distance"]["mean"]
    assert found == pytest.approx(expected, rel=1e-2)
    colour[:, 0] //= 2
    tinted = save(tmp_path / "tinted", colour)
    with pytest.raises(InputError, match=r"--generated: the real images are grey, these coloured; say --channels"):
        scores(sides[0], tinted)
    scores(sides[0], tinted, channels=1)


def test_mixed_and_different_sizes_are_asked_about(sides, tmp_path):
    other = save(tmp_path / "other", blobs(60, 1, 32))
    with pytest.raises(InputError, match=r"--generated: images of 32x32, real ones of 24x24; say --image-size"):
        scores(sides[0], other)
    save(other, blobs(3, 2, 40), "q")
    with pytest.raises(InputError, match=r"images of 2 sizes: 32x32 \(60\), 40x40 \(3\); say --image-size"):
        scores(sides[0], other)
    scores(sides[0], other, image_size=(24, 24))


def test_another_aspect_ratio_is_told_and_flagged(sides, tmp_path):
    """What is stretched looks like nothing that was scanned; an array is no different from a folder."""
    wide = blobs(60, 1, 30)[:, :, :20]
    lines: list[str] = []
    found = scores(sides[0], save(tmp_path / "wide", wide), lines, image_size=(24, 24))
    told = "warning: --generated: 60 images of 20x30 are stretched to 24x24, another aspect ratio"
    assert sum(line.startswith(told) for line in lines) == 1
    assert not any("--real" in line and "stretched" in line for line in lines)
    assert found["generated", "all", "recall"]["flag"].endswith("; 60 generated images stretched")
    np.save(tmp_path / "wide.npy", wide)
    again = scores(sides[0], tmp_path / "wide.npy", image_size=(24, 24))
    for key, row in found.items():
        assert again[key]["mean"] == pytest.approx(row["mean"], rel=1e-3, abs=1e-3), key
        assert again[key]["flag"] == row["flag"]


def test_one_corrupt_file_is_named_and_left_out(sides):
    (sides[1] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    lines = []
    assert scores(*sides, lines)["generated", "all", "recall"]["n_generated"] == 60
    assert any("left out" in line and "broken.png" in line for line in lines)
    for number in range(5):
        (sides[1] / f"broken{number}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"--generated: 6 of 66 images can't be used .*broken"):
        scores(*sides)


def test_blank_generated_images_count_and_blank_real_ones_do_not(sides):
    for side in sides:
        Image.fromarray(np.full((24, 24), 9, np.uint8)).save(side / "zz_blank.png")
    lines = []
    row = scores(*sides, lines, draws=1)["generated", "all", "frechet_distance"]
    assert (row["n_real"], row["n_generated"]) == (60, 60)
    assert [line for line in lines if "blank" in line] == [
        "left out: real/zz_blank.png: constant: every pixel is the same"
    ]
    assert any("60 real and 61 generated" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"generated": "nowhere"}, "--generated .*nowhere: there is no such folder"),
        ({"generated": "few"}, "--generated .*few: 4 images are too few"),
        ({"generated": "one"}, "--generated .*one: 1 image is too few"),
        ({"generated": "empty"}, "--generated .*empty: no images here"),
        ({"features": ("domain",)}, "--features domain: .* use bench run"),
        ({"measures": ("memorization",)}, "--measures memorization: not to be had here"),
        ({"window": (0, 100)}, "--window: all images have 8 bits"),
        ({"subject_pattern": "(unclosed"}, "not a regular expression"),
    ],
)
def test_bad_input_is_named_with_its_option(sides, tmp_path, options, expected):
    save(tmp_path / "few", blobs(4, 0))
    save(tmp_path / "one", blobs(1, 0))
    (tmp_path / "empty").mkdir()
    request = {"real": sides[0], "generated": sides[1], **options}
    request["generated"] = tmp_path / request["generated"]
    with pytest.raises(InputError, match=expected):
        score(Request(**request), lambda _: None, CPU)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((20, 8), np.uint8), "expected images"),
        (np.zeros((20, 5, 8, 8), np.uint8), "expected images"),
        (np.zeros((20, 8, 8), np.int64), "int64 has no known range"),
        (np.full((20, 8, 8), 1.5), "floats must lie in"),
        (np.full((20, 8, 8), 200.0), "found 200 to 200; store 0 to 255 as uint8, or divide by their white"),
        (np.linspace(-1, 1, 1280).reshape(20, 8, 8), r"found -1 to 1; for \[-1, 1\] store \(x \+ 1\) / 2"),
        (
            np.where(np.arange(1280) == 99, np.nan, 0.5).reshape(20, 8, 8),
            "1 of 20 images hold values that are not finite",
        ),
        (np.array([{}], dtype=object), "can't be read as an array"),
    ],
)
def test_unclear_arrays_are_refused(sides, tmp_path, array, expected):
    np.save(tmp_path / "array.npy", array)
    with pytest.raises(InputError, match=expected):
        scores(sides[0], tmp_path / "array.npy")


def classed(path, counts=(30, 30), labels=None, seed=0, **others):
    """Blobs of several classes in one .npz, mixed, as `labels` name them."""
    names = np.repeat(np.arange(len(counts)), counts)
    images = np.concatenate([blobs(count, seed + number) for number, count in enumerate(counts)])
    order = np.random.default_rng(0).permutation(len(names))
    given = names if labels is None else np.asarray(labels)[names]
    np.savez(path, images=images[order], labels=given[order], **others)
    return path


def test_labels_beside_images_are_their_classes(tmp_path):
    """As folders of the same names are: the same numbers, whichever way either side is stored."""
    for number, name in enumerate(("benign", "malignant")):
        save(tmp_path / "real" / name, blobs(30, number))
        save(tmp_path / "generated" / name, blobs(30, 10 + number))
    real = classed(tmp_path / "real.npz", labels=["benign", "malignant"])
    generated = classed(tmp_path / "generated.npz", labels=["benign", "malignant"], seed=10)
    folders = scores(tmp_path / "real", tmp_path / "generated", draws=1)
    for sides in ((real, generated), (tmp_path / "real", generated)):
        arrays = scores(*sides, draws=1)
        assert {group for _, group, _ in arrays} == {"all", "benign", "malignant"}
        for key in folders:
            if key[0] == "generated" and "diversity" not in key[2] and "infinity" not in key[2]:  # those draw at random
                assert arrays[key]["mean"] == pytest.approx(folders[key]["mean"], rel=1e-5, abs=1e-6), key
    numbers = classed(tmp_path / "numbers.npz", seed=10)
    with pytest.raises(InputError, match="only on one side: 0, 1, benign, malignant"):
        scores(real, numbers)
    alike = classed(tmp_path / "alike.npz", labels=["x", "x"], seed=10)
    lines: list[str] = []
    assert {group for _, group, _ in scores(real, alike, lines)} == {"all"}
    assert any("only the real images have classes" in line for line in lines)


def test_what_else_stands_in_an_archive_is_told_or_refused(sides, tmp_path):
    lines: list[str] = []
    scores(sides[0], classed(tmp_path / "more.npz", subject=np.arange(60)), lines, measures=("frechet_distance",))
    assert "--generated: not read: array 'subject'" in lines
    for labels in (np.zeros(59, int), np.zeros((60, 2), int), np.linspace(0, 1, 60)):
        np.savez(tmp_path / "wrong.npz", images=blobs(60, 1), labels=labels)
        with pytest.raises(
            InputError, match=r"'labels' are .* beside 60 images; store one whole number or text for each"
        ):
            scores(sides[0], tmp_path / "wrong.npz")


def test_hidden_folders_are_read_when_named_and_not_when_found(sides, tmp_path):
    """Checkpoints of notebooks lie beside images; a folder that is named is meant."""
    expected = scores(*sides)["generated", "all", "frechet_distance"]
    hidden = sides[1].rename(tmp_path / ".generated")
    found = scores(sides[0], hidden)["generated", "all", "frechet_distance"]
    assert (found["mean"], found["n_generated"]) == (expected["mean"], 60)
    for number, name in enumerate(("left", "right")):
        save(tmp_path / "by class" / name, blobs(20, number))
        save(tmp_path / "by class" / name / ".ipynb_checkpoints", blobs(20, number))
    lines: list[str] = []
    scores(tmp_path / "by class", hidden, lines, measures=("frechet_distance",))
    assert any(line.startswith("40 real and 60 generated") for line in lines)


@given(content=st.binary(max_size=300), suffix=st.sampled_from([".npy", ".npz"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_an_array_are_one_message(tmp_path, content, suffix):
    path = tmp_path / f"array{suffix}"
    path.write_bytes(content)
    np.save(tmp_path / "real.npy", blobs(10, 0))
    with pytest.raises(InputError, match="--generated"):
        scores(tmp_path / "real.npy", path)


def test_results_file_reads_back(sides, tmp_path):
    found = list(scores(*sides).values())
    path = write_rows(found, tmp_path / "out")
    with path.open(newline="") as file:
        back = list(csv.DictReader(file))
    assert len(back) == len(found)
    assert float(back[0]["mean"]) == found[0]["mean"]


# ---- what a newcomer may hand over


def test_progress_counts_images_and_draws(sides):
    told = []
    score(Request(real=sides[0], generated=sides[1], n=20, measures=("frechet_distance",)), lambda _: None, CPU,
          progress=lambda phase, share, detail: told.append((phase, share, detail)))  # fmt: skip
    assert ("reading --real", 1.0, "60 of 60 images") in told
    assert ("features random, generated", 1.0, "60 of 60 images") in told
    assert ("scoring", 1.0, "draw 3 of 3") in told
    assert any(phase == "floor" for phase, _, _ in told)
    assert all(0 <= share <= 1 for _, share, _ in told)


def test_without_inception_weights_it_is_said_how_to_have_them(sides, monkeypatch, tmp_path):
    monkeypatch.delenv("BENCH_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lines = []
    scores(*sides, lines, measures=("frechet_distance",))
    assert any("--features inception" in line and "BENCH_INCEPTION_WEIGHTS" in line for line in lines)


def test_unknown_weights_are_named_beside_every_number_on_them(sides, tmp_path, monkeypatch):
    extractor = FEATURES.get("random")
    monkeypatch.setattr(extractor, "doubt", "weights not the official ones (sha256 0123)")
    found = scores(*sides)
    for row in found.values():
        assert ("weights not the official ones (sha256 0123)" in row["flag"]) is bool(row["features"]), row


def test_copies_of_real_images_are_flagged(sides):
    """A set with 30 of the real images in it scores better than it is; lines and the file both say so."""
    for number in range(30):
        (sides[1] / f"p{number:03d}.png").write_bytes((sides[0] / f"p{number:03d}.png").read_bytes())
    lines = []
    row = scores(*sides, lines)["generated", "all", "frechet_distance"]
    assert "30 real images among these" in row["flag"]
    assert any("30 of 60 generated images are real ones" in line for line in lines)
    lines = []
    scores(*sides, lines, train=sides[0])
    assert any("60 real images are training images too" in line for line in lines)


def test_lost_things_are_told(sides, tmp_path):
    """Transparency, JPEG against PNG, repeats, other kinds of files, links that lead nowhere."""
    images = blobs(58, 1)
    for number, image in enumerate(images):
        alpha = np.full((24, 24), 255 if number else 0, np.uint8)
        Image.fromarray(np.stack([image[0], alpha], axis=-1), "LA").save(tmp_path / "generated" / f"p{number:03d}.png")
    Image.fromarray(images[3, 0]).save(tmp_path / "generated" / "p059.png")
    (tmp_path / "generated" / "notes.txt").write_text("x")
    (tmp_path / "generated" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for number, image in enumerate(blobs(60, 5)):
        Image.fromarray(image[0]).save(tmp_path / "real" / f"p{number:03d}.png", "JPEG")
    lines = []
    scores(*sides, lines, measures=("frechet_distance",))
    text = "\n".join(lines)
    assert "--generated: not read: 1 links that lead nowhere, 1 .txt" in text
    assert "--generated: 1 images have transparency, which is dropped" in text
    assert "real images are JPEG, generated ones PNG" in text
    assert "1 of 60 generated images repeat another" in text
    assert "grey levels of 255: real " in text


def test_fewer_images_than_asked_for_is_told(sides):
    lines = []
    row = scores(*sides, lines, n=1000, measures=("frechet_distance",))["generated", "all", "frechet_distance"]
    assert row["n_generated"] == 60
    assert any("--n 1,000: the generated images suffice for 60" in line for line in lines)


def test_depths_do_not_mix_under_a_window(sides, tmp_path):
    """An 8-bit image under a 12-bit window would be black."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, image in enumerate(blobs(30, 1)):
        values = image[0] if number == 7 else image[0].astype(np.uint16) * 16
        Image.fromarray(values).save(mixed / f"{number:03d}.png")
    with pytest.raises(InputError, match="--generated mixes images of 8 bits with deeper ones"):
        scores(sides[0], mixed, window=(0, 4095))


def test_signed_and_float_values_ask_for_their_whole_span(sides, tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile to write odd TIFFs")
    folder = tmp_path / "signed"
    folder.mkdir()
    for number, image in enumerate(blobs(30, 1)):
        tifffile.imwrite(folder / f"{number:03d}.tif", image[0].astype(np.float32) / 127.5 - 1)
    with pytest.raises(InputError, match=r"--generated: .* none below -\d.*--window -\d"):
        scores(sides[0], folder)
    found = scores(sides[0], folder, window=(-1, 1), n=30)["generated", "all", "frechet_distance"]["mean"]
    expected = scores(sides[0], save(tmp_path / "plain", blobs(30, 1)), n=30)["generated", "all", "frechet_distance"]
    assert found == pytest.approx(expected["mean"], rel=1e-3)


def test_values_that_are_not_finite_do_not_spoil_the_advice(sides, tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile to write odd TIFFs")
    folder = tmp_path / "floats"
    folder.mkdir()
    for number, image in enumerate(blobs(60, 1)):
        values = image[0].astype(np.float32)
        if number < 2:
            values[3, 4] = np.inf if number else np.nan
        tifffile.imwrite(folder / f"{number:03d}.tif", values / 255)
    with pytest.raises(InputError, match=r"no value above (0\.\d+|1) and none below 0.*: --window 0 (0\.\d+|1)$"):
        scores(sides[0], folder)
    with pytest.raises(InputError, match=r"--generated: 2 of 60 images can't be used \(.*values that are not finite"):
        scores(sides[0], folder, window=(0, 1))
    (folder / "001.tif").unlink()
    lines: list[str] = []
    assert scores(sides[0], folder, lines, window=(0, 1))["generated", "all", "recall"]["n_generated"] == 58
    assert "left out: floats/000.tif: holds values that are not finite" in lines


def test_links_to_class_folders_count(tmp_path):
    for number, name in enumerate(("left", "right")):
        save(tmp_path / "real" / name, blobs(20, number))
        save(tmp_path / "elsewhere" / name, blobs(20, 10 + number))
        (tmp_path / "generated").mkdir(exist_ok=True)
        (tmp_path / "generated" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert scores(tmp_path / "real", tmp_path / "generated")["generated", "right", "recall"]["n_generated"] == 20


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"measures": ("frechet",)}, "--measures frechet: no such measure; did you mean 'frechet_distance'"),
        ({"measures": ("memorization",)}, "not to be had here without --train"),
        ({"image_size": (1, 1)}, "--image-size 1 1: a side has 8 to 4096"),
        ({"subject_pattern": r"x(\d)"}, "--subject-pattern: .* finds no subject in real/p000.png"),
    ],
)
def test_options_that_can_not_be_are_named(sides, options, expected):
    with pytest.raises(InputError, match=expected):
        scores(*sides, **options)


def test_masks_of_nought_and_one_are_not_taken_for_images(sides, tmp_path):
    np.save(tmp_path / "masks.npy", (blobs(30, 1) > 100).astype(np.uint8))
    with pytest.raises(InputError, match="no value above 1 of 255"):
        scores(sides[0], tmp_path / "masks.npy")
    np.save(tmp_path / "named.npy", blobs(30, 1))
    with pytest.raises(InputError, match="is an array, whose images have no names"):
        scores(tmp_path / "named.npy", sides[1], subject_pattern=r"(\d)")


def test_a_folder_that_can_not_be_written_to_is_told_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"--out .*file: can't be written to"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_what_is_no_comparison_stands_beside_the_real_images_own(sides):
    """SSIM of pairs has no better direction; the real side's value is that of real images drawn as generated ones are."""
    found = scores(*sides, measures=("ssim",))
    own = scores(sides[0], sides[0], measures=("ssim",))
    assert found["real images", "all", "ssim_diversity"]["mean"] == own["generated", "all", "ssim_diversity"]["mean"]
    assert ("real images", "all", "frechet_distance") not in scores(*sides)
