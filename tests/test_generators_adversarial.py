"""Closed forms and rules of the adversarial, hybrid and diffusion families, and the layers of presets."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from baselines import ddim, gan, vae, vae_gan, vae_gan_knee, wgan_gp
from bench.model import Progress
from bench.registry import GENERATORS

SHAPE = (1, 32, 32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=8, shape=SHAPE, classes=3):
    return torch.rand(n, *shape, generator=generator(7)), torch.arange(n) % classes


def build(family, shape=SHAPE, classes=3, **hyperparameters):
    torch.manual_seed(0)
    return family(shape, classes, family.Hyperparameters(**hyperparameters))


# --- GAN and WGAN-GP ----------------------------------------------------------------------------------------------------


def test_gan_equilibrium_value():
    """At D = 1/2 everywhere the discriminator's loss is log 4 (Goodfellow et al. 2014, theorem 1)."""
    zeros = torch.zeros(5)
    assert gan.discriminator_loss(zeros, zeros).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("norm", [0.0, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic(norm):
    """D(x) = <w, x> has gradient w everywhere: the penalty is (|w| - 1)^2 whatever the images."""
    w = torch.randn(SHAPE, generator=generator())
    w = norm * w / w.norm()
    real, fake = torch.rand(2, 6, *SHAPE, generator=generator(1)).unbind()
    penalty = wgan_gp.gradient_penalty(lambda x: (x * w).flatten(1).sum(1), real, fake, torch.rand(6))
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)


def test_gradient_penalty_is_taken_on_straight_lines():
    """D(x) = |x|^2 / 2 has gradient x: with epsilon 0, 1/4 and 1 the norms are those of x~, the point between, and x."""
    real, fake = torch.full((3, 1, 2, 2), 2.0), torch.zeros(3, 1, 2, 2)
    epsilon = torch.tensor([0.0, 0.25, 1.0])
    penalty = wgan_gp.gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, real, fake, epsilon)
    assert penalty.item() == pytest.approx(((0 - 1) ** 2 + (1 - 1) ** 2 + (4 - 1) ** 2) / 3)


def test_gradient_penalty_trains_the_critic():
    """Its own gradient with respect to the critic's weights is that of (|w| - 1)^2: 2 (|w| - 1) w / |w|."""
    w = torch.full((4,), 1.0, requires_grad=True)
    x = torch.rand(2, 3, 1, 2, 2, generator=generator())
    wgan_gp.gradient_penalty(lambda x: x.flatten(1) @ w, x[0], x[1], torch.rand(3)).backward()
    torch.testing.assert_close(w.grad, torch.full((4,), 2 * (2 - 1) / 2.0))


def test_wgan_generator_moves_every_nth_step_only():
    model, (x, y) = build(wgan_gp.WGANGP, critic_steps=3, width=4), batch()
    optimizers = model.configure_optimizers()
    weight, moved = model.generator.project[0].weight, []
    for number in range(6):
        before = weight.detach().clone()
        model.training_step(x, y, optimizers, Progress(number, 8 * number, 0.0), generator(number))
        moved.append(not torch.equal(before, weight))
    assert moved == [False, False, True, False, False, True]


def test_wgan_follows_the_paper():
    model = build(wgan_gp.WGANGP, **wgan_gp.WGANGP.presets["gulrajani"])
    assert not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.discriminator.modules())
    assert {o.defaults["betas"] for o in model.configure_optimizers().values()} == {(0.0, 0.9)}
    assert {o.defaults["lr"] for o in model.configure_optimizers().values()} == {1e-4}
    hp = model.hyperparameters
    assert (hp.penalty, hp.critic_steps, hp.batch_size) == (10, 5, 64)


# --- VAE-GAN ------------------------------------------------------------------------------------------------------------


def test_each_network_of_a_vae_gan_descends_its_own_objective_only():
    """Rguibi et al. 2023, algorithm 1: encoder prior + like, decoder lambda like + adversarial, discriminator -L_GAN."""
    model, (x, y) = build(vae_gan.VAEGAN, width=4, latent_dim=6, feature_weight=0.5), batch()
    prior, like, adversarial, against = model.losses(2 * x - 1, y, generator(3))
    expected = {"encoder": prior + like, "decoder": 0.5 * like + adversarial, "discriminator": against}
    networks = {name: list(getattr(model, name).parameters()) for name in expected}
    gradients = {name: torch.autograd.grad(loss, networks[name], retain_graph=True) for name, loss in expected.items()}
    optimizers = model.configure_optimizers()
    for optimizer in optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    model.training_step(x, y, optimizers, Progress(0, 0, 0.0), generator(3))
    for name, parameters in networks.items():
        for parameter, gradient in zip(parameters, gradients[name], strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_feature_matching_reaches_encoder_and_decoder_but_not_the_real_features():
    """L_like moves encoder and decoder; what the discriminator gives for the real image is a fixed target."""
    model, (x, y) = build(vae_gan.VAEGAN, width=4, latent_dim=6), batch()
    _, like, adversarial, _ = model.losses(2 * x - 1, y, generator())
    for network in (model.encoder["posterior"], model.decoder):
        gradients = torch.autograd.grad(like, list(network.parameters()), retain_graph=True)
        assert any(gradient.abs().max() > 0 for gradient in gradients)
    logit = model.discriminator["to_logit"].weight
    (unused,) = torch.autograd.grad(like, [logit], retain_graph=True, allow_unused=True)
    assert unused is None  # likelihood is measured in block l, before the logit
    prior_only = model.losses(2 * x - 1, y, generator())[0]
    decoder = torch.autograd.grad(prior_only, list(model.decoder.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in decoder)
    assert adversarial.requires_grad


def test_likelihood_is_zero_for_a_perfect_reconstruction():
    model, (x, y) = build(vae_gan.VAEGAN, width=4, latent_dim=6).eval(), batch()
    model.decode = lambda z, y: 2 * x - 1
    assert model.losses(2 * x - 1, y, generator())[1].item() == 0


def test_kl_of_the_vae_gan_is_torchs():
    mu, log_variance = torch.randn(2, 5, 4, generator=generator()).unbind()
    posterior = Independent(Normal(mu, (log_variance / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(5, 4), torch.ones(5, 4)), 1)
    torch.testing.assert_close(vae_gan.kl_divergence(mu, log_variance), kl_divergence(posterior, prior))


@pytest.mark.parametrize("shape", [(2, 1, 20, 24), (1, 3, 16, 16)])
def test_differentiable_ssim_is_that_of_scikit_image(shape):
    first = torch.rand(shape, generator=generator(), dtype=torch.float64)
    second = (first + 0.2 * torch.randn(shape, generator=generator(1), dtype=torch.float64)).clamp(0, 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    planes = zip(first.flatten(0, 1).numpy(), second.flatten(0, 1).numpy(), strict=True)
    expected = np.mean([structural_similarity(a, b, **options) for a, b in planes])
    assert vae_gan_knee.ssim(first, second).item() == pytest.approx(expected, abs=1e-9)
    assert vae_gan_knee.ssim(first, first).item() == pytest.approx(1)


# --- DDIM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_with_the_exact_denoiser_of_a_gaussian_recovers_it(prediction, eta):
    """For x_0 ~ N(m, s^2): E[x_0|x_t] = m + sqrt(a) s^2 (x_t - sqrt(a) m) / (a s^2 + 1 - a).

    DDIM needs 200 steps to come within 3 % of s; with DDPM's noise the lower variance bound costs more and 1,000 do.
    """
    m, s = 0.2, 0.15
    scheduler = build(ddim.DDIM, channels=(32,), prediction=prediction).scheduler

    def exact(x_t, t):
        a = scheduler.alphas_cumprod[t[0]].double()
        x_0 = m + a.sqrt() * s**2 * (x_t - a.sqrt() * m) / (a * s**2 + 1 - a)
        epsilon = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
        return {"sample": x_0, "epsilon": epsilon, "v_prediction": a.sqrt() * epsilon - (1 - a).sqrt() * x_0}[
            prediction
        ]

    noise = torch.randn(4000, 1, 2, 2, generator=generator(), dtype=torch.float64)
    drawn = ddim.ddim(exact, scheduler, noise, steps=200 if eta == 0 else 1000, eta=eta, rng=generator(1))
    error = s / math.sqrt(drawn.numel())
    assert drawn.mean().item() == pytest.approx(m, abs=0.01 * s + 4 * error)
    assert drawn.std().item() == pytest.approx(s, rel=0.03)


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 28, 28), (1, 45, 37)])
def test_patches_are_undone(shape):
    model = build(ddim.DDIM, shape=shape, channels=(32, 32))
    images, _ = batch(2, shape)
    grid = model.to_grid(images)
    assert tuple(grid.shape[2:]) == tuple(model.network.config["sample_size"])
    torch.testing.assert_close(model.to_images(grid), images)


def test_guidance_of_one_is_none_and_more_goes_beyond():
    """estimate(w) = w estimate(y) + (1 - w) estimate(none): linear in w."""
    y = torch.tensor([0, 1, 2])
    drawn = {}
    for w in (1.0, 3.0):
        model = build(ddim.DDIM, channels=(32,), conditional=True, guidance=w, sampling_steps=1).eval()
        nn.init.normal_(model.network.class_embedding.weight, generator=generator(5))
        calls = []
        model.predict = lambda x_t, t, y, calls=calls: calls.append(y) or 0.1 * y[:, None, None, None] + 0 * x_t
        drawn[w] = model.sample(y, generator())
        assert len(calls) == (1 if w == 1 else 2)
    # 'none' is label 3: 0.1 y + (w - 1)(0.1 y - 0.3) in [-1, 1], halved in [0, 1]
    torch.testing.assert_close(drawn[1.0][:, 0, 0, 0], (0.1 * y + 1) / 2)
    torch.testing.assert_close(drawn[3.0][:, 0, 0, 0], (0.1 * y + 2 * (0.1 * y - 0.3) + 1) / 2)


def test_the_x_0_loss_is_the_error_of_v():
    """(x_0 error)^2 / (1 - a_t) is the squared error of v_t, away from the clamp."""
    model, (x, y) = build(ddim.DDIM, channels=(32,)), batch()
    velocity = build(ddim.DDIM, channels=(32,), prediction="v_prediction")
    ddim_scheduler = model.scheduler

    def from_x_0(x_t, t, y):
        a = ddim_scheduler.alphas_cumprod[t][:, None, None, None]
        return (a.sqrt() * x_t - 0.3) / (1 - a).sqrt()  # the v_t that belongs to the estimate x_0 = 0.3

    model.predict = lambda x_t, t, y: torch.full_like(x_t, 0.3)
    velocity.predict = from_x_0
    far = generator(11)  # a seed whose eight t are not among the first, whose weights are clamped
    torch.testing.assert_close(model.loss(x, y, far), velocity.loss(x, y, generator(11)), rtol=1e-4, atol=1e-5)


# --- conditions and presets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "vae_gan", "vae_gan_knee", "ddim"])
def test_conditional_on_request(name):
    family = GENERATORS.get(name)
    assert not build(family).conditional
    model = build(family, conditional=True).eval()
    assert model.conditional
    same, other = (model.sample(torch.full((4,), label), generator()) for label in (0, 1))
    if name != "ddim":  # its last convolution and class embedding start alike: see test_generators_objectives
        assert not torch.equal(same, other)
    blind = build(family).eval()
    first, second = (blind.sample(torch.full((4,), label), generator()) for label in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def kinds(module, kind):
    return [part for part in module.modules() if isinstance(part, kind)]


def test_preset_chest():
    """Systems of the chest paper 4.3 and 4.4: 64x64 in [-1, 1], latents 128, RMSProp 1e-4, batches of 32."""
    family = GENERATORS.get("vae_gan")
    model = build(family, shape=(1, 64, 64), **family.presets["chest"])
    hp = model.hyperparameters
    assert (hp.batch_size, hp.latent_dim) == (32, 128)
    convolutions = kinds(model.encoder, nn.Conv2d)
    assert [c.out_channels for c in convolutions] == [64, 128, 256]
    assert {(c.kernel_size, c.stride) for c in convolutions} == {((5, 5), (2, 2))}
    assert [linear.out_features for linear in kinds(model.encoder, nn.Linear)] == [2048, 2 * 128]
    assert model.decoder.project[0].out_features == 8 * 8 * 256
    layers = kinds(model.decoder, nn.ConvTranspose2d | nn.Conv2d)
    assert [layer.stride[0] for layer in layers] == [2, 2, 2, 1]
    assert {layer.kernel_size for layer in layers} == {(5, 5)}
    judged = kinds(model.discriminator, nn.Conv2d)
    assert [(c.out_channels, c.kernel_size, c.stride) for c in judged] == [
        (w, (5, 5), (2, 2)) for w in (64, 128, 256, 256)
    ]
    assert len(kinds(model.discriminator, nn.BatchNorm2d)) == 3
    assert [linear.out_features for linear in kinds(model.discriminator, nn.Linear)] == [1]
    drawn = model.decode(torch.randn(2, 128), torch.zeros(2, dtype=torch.int64))
    assert drawn.shape == (2, 1, 64, 64)
    model.decoder.forward = lambda z, y: torch.full((2, 1, 64, 64), 0.7)
    torch.testing.assert_close(
        model.decode(torch.zeros(2, 128), torch.zeros(2).long()), torch.full((2, 1, 64, 64), 0.7).tanh()
    )
    for optimizer in model.configure_optimizers().values():
        assert isinstance(optimizer, torch.optim.RMSprop)
        assert optimizer.defaults["lr"] == 1e-4


def test_preset_knee():
    """Systems of the knee paper III: 256x256 in [0, 1], latents 128, beta 0.1, Adam 2e-4 with beta_1 0.5."""
    family = GENERATORS.get("vae_gan_knee")
    model = build(family, shape=(1, 256, 256), **family.presets["knee"])
    hp = model.hyperparameters
    assert (hp.batch_size, hp.latent_dim, hp.beta, hp.dropout) == (32, 128, 0.1, 0.3)
    encoder = kinds(model.encoder, nn.Conv2d)
    assert [(c.out_channels, c.kernel_size[0]) for c in encoder] == [(32, 3), (64, 3), (128, 2), (256, 2)]
    assert len(kinds(model.encoder, nn.BatchNorm2d)) == len(kinds(model.encoder, nn.ReLU)) == 4
    assert len(kinds(model.decoder, nn.ConvTranspose2d)) == 4
    assert len(kinds(model.discriminator, nn.Conv2d)) == len(kinds(model.discriminator, nn.LeakyReLU)) == 5
    assert {layer.p for layer in kinds(model.discriminator, nn.Dropout2d)} == {0.3}
    for optimizer in model.configure_optimizers().values():
        assert isinstance(optimizer, torch.optim.Adam)
        assert (optimizer.defaults["lr"], optimizer.defaults["betas"][0]) == (2e-4, 0.5)
    assert model.plateau.stop > model.plateau.patience
    y = torch.zeros(2, dtype=torch.int64)
    drawn = model.eval().sample(y, generator())
    assert drawn.shape == (2, 1, 256, 256)
    assert drawn.min() >= 0  # sigmoid


def test_preset_thesis():
    """System of the thesis 5: fully connected, 218x182 and four one-hot labels in, latents 256, log-cosh, Adam 3e-4."""
    family = GENERATORS.get("logcosh_cvae")
    model = build(family, shape=(1, 218, 182), classes=4, **family.presets["thesis"])
    hp = model.hyperparameters
    assert (hp.batch_size, hp.latent_dim, hp.architecture, hp.noise_scale) == (8, 256, "fully_connected", 1.0)
    linear = kinds(model.encoder, nn.Linear)
    assert linear[0].in_features == 218 * 182 + 4
    assert kinds(model.decoder, nn.Linear)[0].in_features == 256 + 4
    assert model.posterior.out_features == 2 * 256
    assert not kinds(model, nn.Conv2d)
    assert len(kinds(model.encoder, nn.ReLU)) == len(linear)
    (optimizer,) = model.configure_optimizers().values()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 3e-4
    x = torch.rand(2, 1, 218, 182)
    error = x - torch.full_like(x, 0.5)
    expected = torch.log(torch.cosh(error)).flatten(1).sum(1)
    torch.testing.assert_close(model.reconstruction_loss(x, torch.full_like(x, 0.5)), expected)
    y = torch.tensor([0, 3])
    assert model.sample(y, generator()).shape == (2, 1, 218, 182)
    assert isinstance(model, vae.LogCoshConditionalVAE)


def test_every_preset_is_valid():
    for name in GENERATORS.names():
        family = GENERATORS.get(name)
        for preset in family.presets.values():
            family.Hyperparameters(**preset)
