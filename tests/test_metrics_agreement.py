"""Agreement with the packages that published numbers come from, on the same features or images: relative 1e-4 or better.

torch-fidelity and scikit-image have tests of their own in `test_metrics_distances` and `test_metrics_images`.
"""

import importlib.util
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from scipy.stats import entropy
from skimage.metrics import peak_signal_noise_ratio
from torch_fidelity import metric_isc

from bench.metrics import lpips
from bench.metrics.frechet import frechet_distance
from bench.metrics.gaussian_kernel import CMMD_BANDWIDTH, gaussian_kernel_distance, median_bandwidth
from bench.metrics.histogram import intensity_divergence
from bench.metrics.inception_score import inception_score, inception_score_parts
from bench.metrics.kernel import kernel_distance
from bench.metrics.manifold import density_coverage, precision_recall
from bench.metrics.similarity import (
    WEIGHTS,
    ms_ssim_pairs,
    nmse_pairs,
    psnr_pairs,
    scales_of,
    similar_pairs,
    ssim_pairs,
)

_spec = importlib.util.spec_from_file_location("lpips_fixture", Path(__file__).with_name("lpips_fixture.py"))
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)


def package(name: str):
    """A package that is not ours, without the warnings it gives while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def pair(n: int = 150, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)), rng.normal(size=(n + 7, d)) * 1.2 + 0.3


def pictures(n: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth images, and the same with noise."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, *shape)), (0, 0, 2, 2))
    first = np.clip(smooth / smooth.std() * 50 + 120, 0, 255).astype(np.uint8)
    return first, np.clip(first + rng.normal(0, 25, first.shape), 0, 255).astype(np.uint8)


# ---- on features


@pytest.mark.parametrize("name", ["pytorch_fid.fid_score", "cleanfid.fid"])
@pytest.mark.parametrize(("n", "d"), [(300, 16), (60, 24)])
def test_frechet_distance(name, n, d):
    """Both take the root of a matrix of rank d; where it is of less (n < d) they add 1e-6 to the diagonals and lose digits."""
    theirs = package(name)
    measure = theirs.calculate_frechet_distance if name.startswith("pytorch") else theirs.frechet_distance
    real, generated = pair(n, d)
    moments = [m for side in (real, generated) for m in (side.mean(axis=0), np.cov(side, rowvar=False))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what SciPy's newer versions say of their use of it
        try:
            expected = measure(*moments)
        except (TypeError, ValueError) as error:
            pytest.skip(f"{name} does not run on this SciPy: {error}")
    assert frechet_distance(real=real, generated=generated) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_torchmetrics():
    torchmetrics = package("torchmetrics.image.fid")
    real, generated = pair(300, 16)
    moments = [m for side in (real, generated) for m in (side.mean(axis=0), np.cov(side, rowvar=False))]
    expected = float(torchmetrics._compute_fid(*map(torch.from_numpy, moments)))
    assert frechet_distance(real=real, generated=generated) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_of_torchmetrics():
    torchmetrics = package("torchmetrics.image.kid")
    real, generated = (torch.from_numpy(side[:150]) for side in pair())
    expected = float(torchmetrics.poly_mmd(real, generated))
    assert kernel_distance(real=real, generated=generated) == pytest.approx(expected, rel=1e-6)


def test_precision_recall_density_coverage_of_their_authors():
    """k = 3 and 5: prdc takes one k for all four."""
    prdc = package("prdc")
    real, generated = pair(200, 8)
    for k in (3, 5):
        theirs = prdc.compute_prdc(real_features=real, fake_features=generated, nearest_k=k)
        ours = precision_recall(real=real, generated=generated, k=k)
        counts = density_coverage(real=real, generated=generated, k=k)
        found = {**ours._asdict(), **counts._asdict()}
        assert found == pytest.approx({name: float(value) for name, value in theirs.items()}, rel=1e-9)
        assert len({round(value, 3) for value in found.values()}) == 4, "all alike would prove nothing"


def test_neighbours_of_scikit_learn():
    """The radii are the distances to the k-th neighbour that is not the image itself."""
    from sklearn.neighbors import NearestNeighbors

    real, generated = pair(120, 6)
    for k in (3, 5):
        own, others = (NearestNeighbors(n_neighbors=k).fit(side).kneighbors()[0][:, -1] for side in (real, generated))
        between = cdist(real, generated)
        expected = (between <= own[:, None]).any(axis=0).mean(), (between <= others).any(axis=1).mean()
        assert tuple(precision_recall(real=real, generated=generated, k=k)) == pytest.approx(expected)


def test_inception_score_of_ten_parts_of_torch_fidelity():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(203, 12)) * 3)
    theirs = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020)
    mean, std = inception_score_parts(logits=logits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    assert mean < inception_score(logits=logits)[0], "parts have fewer images, and so a lower score"


def test_gaussian_kernel_by_the_formula():
    real, generated = pair()
    sigma = np.median(cdist(real, real)[np.triu_indices(len(real), 1)])

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-((x[:, None] - y[None]) ** 2).sum(axis=2) / (2 * sigma**2))

    within = [(k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in (kernel(real, real), kernel(generated, generated))]
    expected = sum(within) - 2 * kernel(real, generated).mean()
    assert median_bandwidth(real) == pytest.approx(sigma, rel=1e-12)
    assert gaussian_kernel_distance(real=real, generated=generated) == pytest.approx(expected, rel=1e-9)


def test_gaussian_kernel_of_scikit_learn_with_cmmds_bandwidth():
    """On vectors of length 1, sigma = 10; CMMD's code takes the pairs of an image with itself too, and times 1,000."""
    from sklearn.metrics.pairwise import rbf_kernel

    real, generated = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in pair())
    K = [rbf_kernel(a, b, gamma=1 / (2 * CMMD_BANDWIDTH**2)) for a, b in ((real, real), (generated, generated))]
    cross = rbf_kernel(real, generated, gamma=1 / (2 * CMMD_BANDWIDTH**2))
    published = 1000 * (K[0].mean() + K[1].mean() - 2 * cross.mean())
    ours = 1000 * gaussian_kernel_distance(real=real, generated=generated, bandwidth=CMMD_BANDWIDTH)
    # with itself every image has k = 1, so that the mean of all pairs lies (1 - mean of different pairs) / n higher
    apart = [(k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in K]
    assert ours + 1000 * sum((1 - a) / len(k) for a, k in zip(apart, K, strict=True)) == pytest.approx(
        published, rel=1e-8
    )


# ---- on images


@pytest.mark.parametrize("scales", [5, 3])
def test_ms_ssim_of_pytorch_msssim(scales):
    """torchmetrics counts reflected borders at the last scale, which the paper's window leaves out: 2e-4 apart here."""
    first, second = pictures(3, (1, 176, 192))
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    theirs = package("pytorch_msssim").ms_ssim(
        *(torch.from_numpy(side).double() for side in (first, second)),
        data_range=255, size_average=False, weights=weights.tolist(),
    )  # fmt: skip
    assert ms_ssim_pairs(first=first, second=second, scales=scales) == pytest.approx(theirs.numpy(), rel=1e-5)


@pytest.mark.parametrize(("shape", "scales"), [((1, 64, 64), 3), ((3, 96, 88), 4), ((1, 24, 40), 2)])
def test_ms_ssim_of_fewer_scales_by_the_formula(shape, scales):
    """SciPy's Gaussian filter, cut at 3.5 deviations; the packages refuse sides of 160 or less."""

    def terms(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        def blur(values: np.ndarray) -> np.ndarray:
            return gaussian_filter(values, (0, 1.5, 1.5), truncate=3.5)[:, 5:-5, 5:-5]

        a, b = blur(x), blur(y)
        covariance, variances = blur(x * y) - a * b, blur(x * x) + blur(y * y) - a**2 - b**2
        contrast = (2 * covariance + 58.5225) / (variances + 58.5225)
        return (contrast * (2 * a * b + 6.5025) / (a**2 + b**2 + 6.5025)).mean(), contrast.mean()

    first, second = pictures(2, shape)
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    assert scales_of(*shape[1:]) == scales
    for image, other, found in zip(first, second, ms_ssim_pairs(first=first, second=second), strict=True):
        x, y, expected = image.astype(float), other.astype(float), 1.0
        for scale, weight in enumerate(weights):
            expected *= terms(x, y)[0 if scale == scales - 1 else 1] ** weight
            if scale < scales - 1:
                x, y = (side.reshape(shape[0], side.shape[1] // 2, 2, -1, 2).mean(axis=(2, 4)) for side in (x, y))
        assert found == pytest.approx(expected, rel=1e-6)


def test_number_of_scales():
    """The window of 11 fits at scale M of a side of n for n > 10 * 2^(M - 1)."""
    for scales, least in ((1, 3), (2, 21), (3, 41), (4, 81), (5, 161)):
        assert scales_of(least, 999) == scales_of(999, least) == scales
        if scales > 1:
            assert scales_of(least - 1, 999) == scales - 1
    assert scales_of(5000, 5000) == 5
    small = pictures(2, (1, 15, 19))
    assert ms_ssim_pairs(first=small[0], second=small[1]) == pytest.approx(ssim_pairs(first=small[0], second=small[1]))
    odd = pictures(2, (1, 163, 165))
    both = similar_pairs(first=odd[0], second=odd[1], scales=5)
    assert both[0] == pytest.approx(ssim_pairs(first=odd[0], second=odd[1]))
    assert ((both[1] > both[0]) & (both[1] < 1)).all(), "noise is gone at coarse scales"
    with pytest.raises(ValueError, match="2 scales of images of 15 x 19 pixels; 1 fit"):
        ms_ssim_pairs(first=small[0], second=small[1], scales=2)


def test_psnr_of_scikit_image():
    first, second = pictures(4, (1, 32, 40))
    theirs = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(first, second, strict=True)]
    assert psnr_pairs(first=first, second=second) == pytest.approx(theirs, rel=1e-9)
    assert psnr_pairs(first=first, second=first) == pytest.approx(10 * math.log10(12 * 255**2))


def test_nmse_by_hand():
    """|x - y|^2 / |x|^2: half of everything is a quarter, black is 1."""
    first = np.full((2, 1, 4, 4), 200, np.uint8)
    second = np.stack([np.full((1, 4, 4), 100), np.zeros((1, 4, 4))]).astype(np.uint8)
    assert nmse_pairs(first=first, second=second) == pytest.approx([0.25, 1])
    with pytest.raises(ValueError, match="1 of 2 true images are black"):
        nmse_pairs(first=second, second=first)


def test_intensity_divergences_of_scipy():
    first, second = pictures(6, (1, 30, 30))
    p, q = ((np.bincount(side.ravel(), minlength=256) + 1) / (side.size + 256) for side in (first, second))
    found = intensity_divergence(real=first, generated=second)
    assert found.kl == pytest.approx(entropy(p, q, base=2), rel=1e-9)
    m = (p + q) / 2
    assert found.js == pytest.approx((entropy(p, m, base=2) + entropy(q, m, base=2)) / 2, rel=1e-9)
    assert intensity_divergence(real=second, generated=first).js == pytest.approx(found.js)
    assert intensity_divergence(real=second, generated=first).kl == pytest.approx(entropy(q, p, base=2), rel=1e-9)


def test_intensity_divergences_in_closed_form():
    """Every level alike against half of them: KL = JS's known 0.3113 bits less, for n large; nothing in common: JS = 1."""
    every = np.tile(np.arange(256, dtype=np.uint8), 4096).reshape(64, 1, 128, 128)
    half = every // 2
    found = intensity_divergence(real=half, generated=every)
    assert found.kl == pytest.approx(1, rel=0.01)
    assert found.js == pytest.approx(1.5 - 0.75 * math.log2(3), rel=0.01)
    assert intensity_divergence(real=half, generated=half + 128).js == pytest.approx(1, rel=0.01)
    assert intensity_divergence(real=every, generated=half).kl > 5, "levels that are missing weigh most"
    colour = np.concatenate([every, half], axis=1)
    other = np.concatenate([every, every], axis=1)
    assert intensity_divergence(real=colour, generated=other).kl == pytest.approx(found.kl / 2)
    with pytest.raises(ValueError, match="2 channels, generated 1"):
        intensity_divergence(real=colour, generated=every)


def test_lpips_of_its_authors():
    theirs = package("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = theirs.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False, eval_mode=True)
    folder = fixture.random_weights()
    state = torch.load(folder / lpips.VGG16, weights_only=True)
    own = {name: key for name in network.net.state_dict() for key in [f"features.{name.split('.', 1)[1]}"]}
    network.net.load_state_dict({name: state[key] for name, key in own.items()})
    linear = torch.load(folder / lpips.LINEAR, weights_only=True)
    for index in range(5):
        network.lins[index].model[1].weight.data = linear[f"lin{index}.model.1.weight"]
    for shape in ((3, 48, 40), (1, 33, 32)):
        first, second = pictures(2, shape)
        tensors = [
            torch.from_numpy(np.repeat(side, 4 - shape[0], axis=1)[:, :3]).float() / 127.5 - 1
            for side in (first, second)
        ]
        with torch.no_grad():
            expected = network(*tensors).flatten().numpy()
        assert lpips.LPIPS(folder=folder).pairs(first=first, second=second) == pytest.approx(expected, rel=1e-4)


def test_lpips_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv(lpips.VARIABLE, str(tmp_path))
    with pytest.raises(lpips.UnavailableError, match=r"there is no vgg16-397923af.pth in .*BENCH_LPIPS_WEIGHTS"):
        lpips.LPIPS()
    (tmp_path / lpips.VGG16).write_bytes(b"nothing")
    with pytest.raises(lpips.UnavailableError, match="damaged"):
        lpips.LPIPS()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / lpips.VGG16)
    torch.save({"lin0.model.1.weight": torch.zeros(1)}, tmp_path / lpips.LINEAR)
    with pytest.raises(lpips.UnavailableError, match="another network's weights"):
        lpips.LPIPS()
