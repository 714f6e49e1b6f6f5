"""Closed forms of the families' objectives and controls, and the sizes of the networks they share."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from baselines import controls, dcgan, networks, vae
from baselines import gan as games
from bench.model import Progress

SHAPE = (1, 32, 32)
SIZES = [(16, 16), (17, 16), (28, 28), (36, 30), (64, 64), (31, 33), (218, 182)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*size, seed=0):
    return torch.randn(*size, generator=generator(seed))


# --- networks -----------------------------------------------------------------------------------------------------------


def test_grids_halve_down_to_about_four():
    assert networks.grid_sizes(64, 64) == [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]
    assert networks.grid_sizes(28, 28) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert networks.grid_sizes(218, 182)[-1] == (7, 6)
    assert all(4 <= min(networks.grid_sizes(side, side)[-1]) <= 6 for side in range(16, 300))
    with pytest.raises(ValueError, match="15x40"):
        networks.grid_sizes(15, 40)


def test_channels_double_up_to_eight_times_the_width():
    assert networks.grid_channels(32, 5) == [32, 64, 128, 256, 256]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_convolutional_pair_fits_any_size(size, channels, batch_norm):
    shape, labels = (channels, *size), torch.tensor([0, 1])
    encoder = networks.ConvolutionalEncoder(shape, classes=2, width=4, batch_norm=batch_norm)
    decoder = networks.ConvolutionalDecoder(5, shape, classes=2, width=4, batch_norm=batch_norm)
    assert encoder(torch.zeros(2, *shape), labels).shape == (2, encoder.features)
    assert decoder(torch.zeros(2, 5), labels).shape == (2, *shape)


def test_every_pixel_of_an_odd_image_counts():
    encoder = networks.ConvolutionalEncoder((1, 31, 33), width=2, activation=nn.Identity)
    image = torch.zeros(1, 1, 31, 33, requires_grad=True)
    encoder(image, torch.tensor([0])).sum().backward()
    assert (image.grad != 0).all()


def test_dense_pair_is_mirrored():
    encoder = networks.DenseEncoder(SHAPE, widths=(20, 10), classes=3)
    decoder = networks.DenseDecoder(7, SHAPE, widths=(20, 10), classes=3)
    linear = [
        [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
        for net in (encoder, decoder)
    ]
    assert linear == [[(1024 + 3, 20), (20, 10)], [(7 + 3, 10), (10, 20), (20, 1024)]]
    assert decoder(numbers(2, 7), torch.tensor([0, 2])).shape == (2, *SHAPE)


def test_labels_are_joined_as_one_hot():
    labels = torch.tensor([2, 0])
    vectors, images = numbers(2, 4), numbers(2, 1, 3, 5)
    joined = networks.join_vector(vectors, labels, 3)
    assert torch.equal(joined[:, :4], vectors)
    assert joined[:, 4:].tolist() == [[0, 0, 1], [1, 0, 0]]
    planes = networks.join_channels(images, labels, 3)
    assert torch.equal(planes[:, :1], images)
    assert torch.equal(planes[:, 1:], joined[:, 4:, None, None].expand(2, 3, 3, 5))
    assert networks.join_vector(vectors, labels, 0) is vectors
    assert networks.join_channels(images, labels, 0) is images


# --- variational autoencoders -------------------------------------------------------------------------------------------


def test_kl_divergence_is_that_of_torch_distributions():
    mu, log_variance = numbers(6, 4), numbers(6, 4, seed=1)
    posterior = Independent(Normal(mu, (log_variance / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(6, 4), torch.ones(6, 4)), 1)
    torch.testing.assert_close(vae.kl_divergence(mu, log_variance), kl_divergence(posterior, prior))
    assert torch.equal(vae.kl_divergence(torch.zeros(2, 4), torch.zeros(2, 4)), torch.zeros(2))


def test_log_cosh_is_its_definition_and_does_not_overflow():
    t = torch.linspace(-20, 20, 801, dtype=torch.float64)
    torch.testing.assert_close(vae.log_cosh(t), torch.log(torch.cosh(t)), rtol=1e-12, atol=1e-15)
    far = torch.tensor([-1e6, 1e6], requires_grad=True)
    value = vae.log_cosh(far)
    torch.testing.assert_close(value, torch.full((2,), 1e6 - math.log(2)))
    value.sum().backward()
    assert far.grad.tolist() == [-1, 1]
    near = torch.tensor([-1e-3, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    vae.log_cosh(near).sum().backward()
    torch.testing.assert_close(near.grad, torch.tanh(near.detach()))


def small_vae(family=vae.ConditionalVAE, **hyperparameters):
    torch.manual_seed(0)
    hp = family.Hyperparameters(latent_dim=6, dense_widths=(16, 8), width=4, **hyperparameters)
    return family(SHAPE, 3, hp).eval()


def test_the_loss_is_the_negative_elbo_up_to_the_constant():
    """-ELBO = KL - E log N(x; x_hat, s^2 I); the constant left out is d/2 log(2 pi s^2)."""
    s, model = 0.3, small_vae(noise_scale=0.3)
    x, y = torch.rand(5, *SHAPE, generator=generator()), torch.tensor([0, 1, 2, 0, 1])
    mu, log_variance = model.encode(x, y)
    z = mu + (log_variance / 2).exp() * torch.randn(5, 6, generator=generator(4))
    likelihood = Independent(Normal(model.decode(z, y), s), 3).log_prob(x)
    posterior = Independent(Normal(mu, (log_variance / 2).exp()), 1)
    kl = kl_divergence(posterior, Independent(Normal(torch.zeros(5, 6), torch.ones(5, 6)), 1))
    constant = 1024 / 2 * math.log(2 * math.pi * s**2)
    losses = model.losses(x, y, generator(4))
    torch.testing.assert_close(losses["loss"], (kl - likelihood - constant).mean(), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(losses["kl"], kl.mean())
    assert torch.equal(model.validation_loss(x, y, generator(4)), losses["loss"])


def test_beta_weighs_the_kl_term_alone():
    x, y = torch.rand(4, *SHAPE, generator=generator()), torch.tensor([0, 1, 2, 0])
    one, four = (small_vae(beta=beta).losses(x, y, generator()) for beta in (1.0, 4.0))
    difference = four["loss"].item() - one["loss"].item()
    assert difference == pytest.approx(3 * one["kl"].item(), abs=1e-6 * four["loss"].item())  # float32 sums
    assert torch.equal(one["reconstruction"], four["reconstruction"])


def test_log_cosh_reconstruction_is_the_density_of_hyperbolic_secant_noise():
    """p(t) = sech(t / s) / (pi s), so -log p = log cosh(t / s) + log(pi s): checked by its integral being 1."""
    model = small_vae(vae.LogCoshConditionalVAE, noise_scale=0.2)
    t = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    cost = model.reconstruction_loss(t[:, None, None, None], torch.zeros(40001, 1, 1, 1, dtype=torch.float64))
    assert torch.trapezoid((-cost).exp() / (math.pi * 0.2), t).item() == pytest.approx(1, abs=1e-6)


def test_log_cosh_is_the_squared_error_near_zero_and_linear_far_off():
    square, cosh = small_vae(noise_scale=0.5), small_vae(vae.LogCoshConditionalVAE, noise_scale=0.5)
    zero = torch.zeros(1, *SHAPE, dtype=torch.float64)
    near, far = zero + 1e-3, zero + 100.0
    torch.testing.assert_close(
        cosh.reconstruction_loss(near, zero), square.reconstruction_loss(near, zero), rtol=1e-5, atol=0
    )
    assert cosh.reconstruction_loss(far, zero).item() == pytest.approx(1024 * (200 - math.log(2)))


def test_the_log_cosh_family_has_the_thesis_latents_and_layers():
    hp = vae.LogCoshConditionalVAE.Hyperparameters()
    assert (hp.latent_dim, hp.learning_rate, hp.architecture) == (256, 1e-3, "fully_connected")


@pytest.mark.parametrize("architecture", ["convolutional", "fully_connected"])
@pytest.mark.parametrize("family", [vae.VAE, vae.ConditionalVAE, vae.LogCoshConditionalVAE])
def test_a_vae_learns_what_there_is_to_learn(family, architecture):
    """Two kinds of images, black and white halves: after 120 steps the error is far below that of the best constant, 1/4."""
    model = small_vae(family, architecture=architecture, learning_rate=3e-3).train()
    x = torch.zeros(16, *SHAPE)
    x[::2, :, :16], x[1::2, :, 16:] = 1, 1
    y, optimizers, rng = torch.zeros(16, dtype=torch.int64), model.configure_optimizers(), generator()
    for step in range(120):
        model.training_step(x, y, optimizers, Progress(step, 16 * step, step / 120), rng)
    assert F.mse_loss(model.eval().reconstruct(x, y), x) < 0.05


# --- DCGAN --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gan():
    torch.manual_seed(0)
    return dcgan.DCGAN(SHAPE, 2, dcgan.DCGAN.Hyperparameters(width=8))


def test_gan_losses_are_binary_cross_entropies():
    real, fake = 5 * numbers(50), 5 * numbers(50, seed=1)
    cross_entropy = F.binary_cross_entropy_with_logits
    expected = cross_entropy(real, torch.ones(50)) + cross_entropy(fake, torch.zeros(50))
    torch.testing.assert_close(games.discriminator_loss(real, fake), expected)
    torch.testing.assert_close(games.generator_loss(fake), cross_entropy(fake, torch.ones(50)))


def test_gan_follows_the_papers_rules(gan):
    kinds = [[type(module) for module in net.modules()] for net in (gan.generator, gan.discriminator)]
    assert [kind.count(nn.BatchNorm1d) + kind.count(nn.BatchNorm2d) for kind in kinds] == [3, 2]  # not at the image
    assert nn.ReLU in kinds[0]
    assert nn.LeakyReLU not in kinds[0]
    slopes = {module.negative_slope for module in gan.discriminator.modules() if isinstance(module, nn.LeakyReLU)}
    assert slopes == {0.2}
    assert nn.ReLU not in kinds[1]
    weights = torch.cat(
        [m.weight.flatten() for m in gan.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    optimizers = gan.configure_optimizers()
    assert {name: (o.defaults["lr"], o.defaults["betas"]) for name, o in optimizers.items()} == {
        "discriminator": (2e-4, (0.5, 0.999)),
        "generator": (2e-4, (0.5, 0.999)),
    }
    owned = [parameter for o in optimizers.values() for group in o.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in owned} == {id(parameter) for parameter in gan.parameters()}
    assert gan.ema_decay is None


def test_gan_latents_are_uniform(gan):
    z = gan.latents(1000, generator())
    assert z.shape == (1000, 100)
    assert z.min() >= -1
    assert z.max() <= 1
    assert z.var().item() == pytest.approx(1 / 3, rel=0.02)


def test_gan_step_moves_each_player_by_its_own_loss_alone(gan):
    """With the other's optimiser left at learning rate 0, only one's weights move; the discriminator stays trainable."""
    x, y = torch.rand(8, *SHAPE, generator=generator()), torch.zeros(8, dtype=torch.int64)
    for player, other in (("generator", "discriminator"), ("discriminator", "generator")):
        optimizers = gan.configure_optimizers()
        optimizers[other].param_groups[0]["lr"] = 0.0
        before = {name: value.clone() for name, value in gan.named_parameters()}
        gan.training_step(x, y, optimizers, Progress(0, 0, 0.0), generator())
        moved = {
            name.partition(".")[0] for name, value in gan.named_parameters() if not torch.equal(value, before[name])
        }
        assert moved == ({"generator"} if player == "generator" else {"discriminator", "to_logit"})
        assert all(parameter.requires_grad for parameter in gan.parameters())


def conv_vae():
    return small_vae(architecture="convolutional", batch_norm=True)


def small_gan():
    return dcgan.DCGAN(SHAPE, 3, dcgan.DCGAN.Hyperparameters(width=4))


@pytest.mark.parametrize("make", [conv_vae, small_gan])
def test_evaluation_mode_does_not_see_the_batch(make):
    """Draws of a multiple of 16 numbers share their beginning, so 8 images and 16 images begin alike."""
    model, labels = make().eval(), torch.arange(16) % 3
    few, many = (model.sample(labels[:n], generator()) for n in (8, 16))
    torch.testing.assert_close(few, many[:8], rtol=0, atol=1e-5)


# --- controls -----------------------------------------------------------------------------------------------------------


def correlated(n, d, seed=0):
    """Numbers about 0.5 whose covariance has a few large directions and a floor, small enough never to leave [0, 1]."""
    basis = torch.linalg.qr(numbers(d, d, seed=9).double())[0]
    scales = torch.full((d,), 0.01, dtype=torch.float64)
    scales[:3] = torch.tensor([0.06, 0.04, 0.03], dtype=torch.float64)
    return 0.5 + numbers(n, d, seed=seed).double() * scales @ basis.T, basis @ scales.diag().square() @ basis.T


@pytest.mark.parametrize(("n", "d", "rank"), [(40, 12, 3), (12, 40, 3), (200, 12, 11), (12, 40, 30)])
def test_ppca_is_the_closed_form(n, d, rank):
    """Tipping & Bishop 1999, eq. 7 and 8, against the eigenvalues of the whole covariance."""
    x, _ = correlated(n, d)
    mean, W, sigma = controls.probabilistic_pca(x, rank)
    covariance = torch.cov(x.T, correction=0)
    eigenvalues, vectors = (part.flip(-1) for part in torch.linalg.eigh(covariance))
    q = min(rank, n - 1, d - 1)
    assert W.shape == (d, q)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(sigma**2, eigenvalues[q:].mean().clamp(min=0), rtol=1e-8, atol=1e-16)
    kept = (vectors[:, :q] * (eigenvalues[:q] - sigma**2).clamp(min=0)) @ vectors[:, :q].T
    torch.testing.assert_close(W @ W.T, kept, rtol=1e-6, atol=1e-12)


def test_ppca_of_one_image_is_that_image():
    mean, W, sigma = controls.probabilistic_pca(torch.full((1, 4), 0.3, dtype=torch.float64), 2)
    assert (W.shape, sigma.item()) == ((4, 0), 0)
    assert mean.tolist() == [0.3] * 4


def test_gaussian_recovers_the_covariance_of_each_class():
    """20,000 images: the sampling error of a covariance entry is about variance / sqrt(20000), 0.7 %."""
    shape, n = (1, 4, 4), 20000
    x, covariance = correlated(n, 16)
    images = torch.cat([x, 1.1 - x]).float().unflatten(1, shape)
    labels = torch.arange(2).repeat_interleave(n)
    model = controls.Gaussian(shape, 2, controls.Gaussian.Hyperparameters(rank=3))
    model.fit_direct(images, labels, generator())
    assert model.sigma.tolist() == pytest.approx([0.01, 0.01], rel=0.01)
    for label, centre in ((0, 0.5), (1, 0.6)):
        drawn = model.sample(torch.full((n,), label), generator(1)).flatten(1).double()
        torch.testing.assert_close(drawn.mean(0), torch.full((16,), centre, dtype=torch.float64), rtol=0, atol=2e-3)
        torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0, atol=0.04 * covariance.max().item())


def test_training_copy_gives_each_image_once_before_any_twice():
    shape, labels = (1, 2, 2), torch.tensor([0, 0, 0, 1, 1])
    images = torch.arange(20).reshape(5, *shape) * 12 / 255
    model = controls.TrainingCopy(shape, 2, controls.TrainingCopy.Hyperparameters())
    model.fit_direct(images, labels, generator())
    drawn = model.sample(torch.tensor([1, 0, 0, 1, 0]), generator())
    assert sorted(drawn.flatten(1).tolist()) == sorted(images.flatten(1).tolist())  # the same bits
    assert {tuple(image) for image in drawn[[0, 3]].flatten(1).tolist()} == {
        tuple(image) for image in images[3:].flatten(1).tolist()
    }
    twice = model.sample(torch.tensor([1] * 4), generator()).flatten(1).tolist()
    assert sorted(twice) == sorted(images[3:].flatten(1).tolist() * 2)


def test_mean_image_is_the_mean_of_its_class():
    shape, labels = (1, 3, 3), torch.tensor([0, 1, 1])
    images = torch.rand(3, *shape, generator=generator())
    model = controls.MeanImage(shape, 2, controls.MeanImage.Hyperparameters())
    model.fit_direct(images, labels, generator())
    expected = torch.stack([images[1:].mean(0), images[0]])
    torch.testing.assert_close(model.sample(torch.tensor([1, 0]), generator()), expected)


@pytest.mark.parametrize("family", [controls.TrainingCopy, controls.MeanImage, controls.Gaussian])
def test_a_control_refuses_a_class_without_images(family):
    model = family((1, 2, 2), 3, family.Hyperparameters())
    with pytest.raises(ValueError, match="class 1"):
        model.fit_direct(torch.rand(4, 1, 2, 2), torch.tensor([0, 2, 2, 0]), generator())
