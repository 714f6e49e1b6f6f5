"""Each family's training step descends its source's objective: gradients and losses against the equations, written out.

The optimisers get a learning rate of nought, so that a step leaves its gradients behind and moves nothing; the random draws
are those of the same generator, in the order in which a step takes them.
"""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from baselines import cyclegan, dcgan, ddim, gan, gmvae, hvae, vae_gan, vae_gan_knee, vqvae, wgan_gp
from bench.model import Progress

SHAPE = (1, 16, 16)


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def build(family, shape=SHAPE, classes=3, **hyperparameters):
    torch.manual_seed(0)
    return family(shape, classes, family.Hyperparameters(**hyperparameters))


def batch(n=8, shape=SHAPE):
    return torch.rand(n, *shape, generator=generator(7)), torch.arange(n) % 3


def gradients_of_a_step(model, networks):
    """Take one step at a learning rate of nought; return each network's gradients and what the step reported."""
    x, y = batch()
    optimizers = model.configure_optimizers()
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    told = model.training_step(x, y, optimizers, Progress(0, 0, 0.0), generator())
    return [[p.grad.clone() for p in network.parameters()] for network in networks], told


def assert_descends(found, loss, network):
    expected = torch.autograd.grad(loss, list(network.parameters()))
    assert any(gradient.abs().max() > 1e-4 for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


# --- GANs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [gan.GAN, gan.ConditionalGAN, dcgan.DCGAN])
def test_gan_players_descend_goodfellows_losses(family):
    """L_D = -mean log D(x) - mean log(1 - D(G(z))), L_G = -mean log D(G(z)), z uniform in [-1, 1], images in [-1, 1]."""
    model, (x, y) = build(family, latent_dim=6), batch()
    discriminator = nn.ModuleList([model.discriminator, model.to_logit])
    (found_d, found_g), told = gradients_of_a_step(model, [discriminator, model.generator])
    z = 2 * torch.rand(8, 6, generator=generator()) - 1
    fake = torch.tanh(model.generator(z, y))

    def log_d(images, real):
        probability = torch.sigmoid(model.to_logit(model.discriminator(images, y)).squeeze(1))
        return torch.log(probability if real else 1 - probability).mean()

    loss_d = -log_d(2 * x - 1, True) - log_d(fake.detach(), False)
    loss_g = -log_d(fake, True)
    assert_descends(found_d, loss_d, discriminator)
    assert_descends(found_g, loss_g, model.generator)
    assert told["discriminator"].item() == pytest.approx(loss_d.item(), rel=1e-4)
    assert told["generator"].item() == pytest.approx(loss_g.item(), rel=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 10.0])
def test_wgan_players_descend_equation_3(penalty):
    """L_C = D(x~) - D(x) + lambda (|grad D(x^)| - 1)^2 at x^ = e x + (1 - e) x~, L_G = -D(x~); z Gaussian, e uniform."""
    model, (x, y) = build(wgan_gp.WGANGP, latent_dim=6, width=4, critic_steps=1, penalty=penalty), batch()
    critic = nn.ModuleList([model.discriminator, model.to_logit])
    (found_c, found_g), told = gradients_of_a_step(model, [critic, model.generator])

    rng = generator()
    z, e, z_2 = torch.randn(8, 6, generator=rng), torch.rand(8, generator=rng), torch.randn(8, 6, generator=rng)

    def score(images):
        return model.to_logit(model.discriminator(images, y)).squeeze(1)

    real, fake = 2 * x - 1, torch.tanh(model.generator(z, y)).detach()
    between = torch.stack([a * r + (1 - a) * f for a, r, f in zip(e, real, fake, strict=True)]).requires_grad_()
    slopes = torch.autograd.grad(score(between).sum(), between, create_graph=True)[0]
    away = torch.stack([(slope.square().sum().sqrt() - 1) ** 2 for slope in slopes]).mean()
    assert away.item() > 0.01
    assert_descends(found_c, score(fake).mean() - score(real).mean() + penalty * away, critic)
    assert_descends(found_g, -score(torch.tanh(model.generator(z_2, y))).mean(), model.generator)
    assert told["penalty"].item() == pytest.approx(away.item(), rel=1e-4)
    assert told["distance"].item() == pytest.approx((score(real) - score(fake)).mean().item(), rel=1e-3, abs=1e-6)


# --- VAE-GANs -----------------------------------------------------------------------------------------------------------


def softplus(value):
    return math.log1p(math.exp(value))


def test_vae_gan_losses_by_hand():
    """Networks replaced by constants: images 0.5, reconstructions 0.1, samples -0.2; features 3 x, logits 10 x."""
    model = build(vae_gan.VAEGAN, latent_dim=2, width=4, likelihood_scale=100.0)
    mu, log_variance = torch.tensor([[1.0, -2.0]]).repeat(8, 1), torch.tensor([[0.4, -0.6]]).repeat(8, 1)
    decoded = []

    def decode(z, y):
        decoded.append(z)
        return torch.full((8, *SHAPE), 0.1 if len(decoded) == 1 else -0.2)

    model.encode = lambda x, y: (mu, log_variance)
    model.decode = decode
    model.discriminate = lambda x, y: (3 * x, 10 * x.flatten(1).mean(1))
    prior, like, adversarial, against = model.losses(torch.full((8, *SHAPE), 0.5), torch.zeros(8).long(), generator())
    noise = torch.randn(2, 8, 2, generator=generator())
    torch.testing.assert_close(decoded[0], mu + log_variance.exp().sqrt() * noise[0])
    torch.testing.assert_close(decoded[1], noise[1])
    kl = sum(m * m + math.exp(v) - 1 - v for m, v in ((1.0, 0.4), (-2.0, -0.6))) / 2
    assert prior.item() == pytest.approx(kl, rel=1e-5)
    assert like.item() == pytest.approx(100 * (3 * 0.5 - 3 * 0.1) ** 2 / 2, rel=1e-5)
    assert adversarial.item() == pytest.approx(softplus(-1) + softplus(2), rel=1e-5)
    assert against.item() == pytest.approx(softplus(-5) + softplus(1) + softplus(-2), rel=1e-5)


@pytest.mark.parametrize("block", [1, 2])
def test_vae_gan_measures_likelihood_in_the_block_asked_for(block):
    """Block l of the discriminator has halved the image l times."""
    model = build(vae_gan.VAEGAN, latent_dim=2, width=4, feature_block=block)
    features, logit = model.discriminate(2 * batch()[0] - 1, batch()[1])
    assert features.shape[2:] == (16 // 2**block, 16 // 2**block)
    assert logit.shape == (8,)


@pytest.mark.parametrize("family", [gan.GAN, dcgan.DCGAN, wgan_gp.WGANGP, vae_gan.VAEGAN])
def test_tanh_images_are_returned_in_the_unit_interval(family):
    """-1 is black and 1 is white: (x + 1) / 2."""
    model = build(family, latent_dim=2).eval()
    name = "decode" if family is vae_gan.VAEGAN else "G"
    for value, expected in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
        setattr(model, name, lambda z, y, value=value: torch.full((len(z), *SHAPE), value))
        assert torch.equal(model.sample(torch.zeros(2).long(), generator()), torch.full((2, *SHAPE), expected))


def test_knee_vae_loss_by_hand():
    """N (w MSE + (1 - w) (1 - SSIM)) with scikit-image's SSIM, and the KL of the posterior (eqs. 1 to 3)."""
    model = build(vae_gan_knee.KneeVAEGAN, latent_dim=2, mse_weight=0.3, reconstruction_scale=50.0)
    x, y = batch()
    back = (x + 0.2 * torch.randn(x.shape, generator=generator(5))).clamp(0, 1)
    mu, log_variance = torch.full((8, 2), 0.5), torch.full((8, 2), -0.3)
    codes = []
    model.encode = lambda x, y: (mu, log_variance)
    model.G = lambda z, y: codes.append(z) or back
    reconstruction, kl = model.vae_loss(x, y, generator())
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    ssim = np.mean([structural_similarity(a[0].numpy(), b[0].numpy(), **options) for a, b in zip(x, back, strict=True)])
    mse = (x - back).square().mean().item()
    assert reconstruction.item() == pytest.approx(50 * (0.3 * mse + 0.7 * (1 - ssim)), rel=1e-4)
    assert kl.item() == pytest.approx(2 * (0.25 + math.exp(-0.3) - 1 + 0.3) / 2, rel=1e-5)
    torch.testing.assert_close(codes[0], mu + log_variance.exp().sqrt() * torch.randn(8, 2, generator=generator()))


def test_knee_players_descend_equation_4():
    """Encoder and decoder: reconstruction + beta KL - mean log D(G(z_p)); the discriminator its own loss on G(z_p)."""
    model, (x, y) = build(vae_gan_knee.KneeVAEGAN, latent_dim=4, dropout=0.0, beta=3.0), batch()
    discriminator = nn.ModuleList([model.discriminator, model.to_logit])
    creator = nn.ModuleList([model.encoder, model.posterior, model.decoder])
    (found_d, found_g), _ = gradients_of_a_step(model, [discriminator, creator])
    rng = generator()
    fake = model.G(torch.randn(8, 4, generator=rng), y)
    real, made = model.D(x, y), model.D(fake.detach(), y)
    loss_d = -torch.log(torch.sigmoid(real)).mean() - torch.log(1 - torch.sigmoid(made)).mean()
    reconstruction, kl = model.vae_loss(x, y, rng)
    loss_g = reconstruction + 3 * kl - torch.log(torch.sigmoid(model.D(fake, y))).mean()
    assert_descends(found_d, loss_d, discriminator)
    assert_descends(found_g, loss_g, creator)


# --- latent families ----------------------------------------------------------------------------------------------------


def test_gmvae_weighs_components_by_bayes_rule():
    """q(c|x) is p(c|z) of the mixture at the z drawn; the KL is Monte Carlo's over (z, c) given that q(c|x)."""
    model, (x, y) = (
        build(gmvae.GMVAE, latent_dim=3, components=4, dense_widths=(16,), beta=2.0).double().eval(),
        batch(),
    )
    x = x.double()
    model.logits.data = torch.randn(4, generator=generator(1)).double()
    model.log_variances.data = torch.randn(4, 3, generator=generator(2)).double()
    found = model.losses(x, y, generator())
    mu, log_variance = model.encode(x, y)
    z = mu + log_variance.exp().sqrt() * torch.randn(8, 3, generator=generator())
    pi = Categorical(logits=model.logits)
    parts = Independent(Normal(model.means, model.log_variances.exp().sqrt()), 1)
    joint = torch.stack([pi.probs[c] * parts.log_prob(z[:, None])[:, c].exp() for c in range(4)], 1)
    posterior = joint / MixtureSameFamily(pi, parts).log_prob(z).exp()[:, None]
    torch.testing.assert_close(posterior.sum(1), torch.ones(8).double())
    draws = 40_000
    noise = torch.randn(draws, 8, 3, generator=generator(4)).double()
    many = mu + log_variance.exp().sqrt() * noise
    inner = Independent(Normal(mu, log_variance.exp().sqrt()), 1).log_prob(many)[..., None] - parts.log_prob(
        many[:, :, None]
    )
    samples = (posterior * (inner + posterior.log() - pi.probs.log())).sum(2).mean(1)
    error = samples.std().item() / math.sqrt(draws)
    assert found["kl"].item() == pytest.approx(samples.mean().item(), abs=5 * error)
    assert error < 0.02 * found["kl"].item()
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 2 * found["kl"])


def hamiltonian():
    model = build(hvae.HVAE, latent_dim=3, dense_widths=(16,), leapfrog_steps=4, step_size=0.05).double().eval()
    x, y = batch()
    return model, x[:1].double(), y[:1]


@pytest.mark.parametrize("tempering", [0.5, 0.9])
def test_the_hamiltonian_flow_keeps_volume_as_a_whole(tempering):
    """What tempering takes from the momenta, rho_0 = gamma_0 / sqrt(b_0) gave them: the determinant is 1."""
    model, x, y = hamiltonian()
    model.tempering_logit.data = torch.logit(torch.tensor(tempering)).double()
    start = torch.randn(6, generator=generator()).double()

    def flow(values):
        return torch.cat([part[0] for part in model.flow(x, y, values[None, :3], values[None, 3:])])

    model.train()  # keeps the graph of second derivatives
    assert torch.linalg.det(torch.autograd.functional.jacobian(flow, start)).item() == pytest.approx(1, abs=1e-6)
    z, rho = flow(start)[:3], flow(start)[3:]
    assert (z - start[:3]).abs().max() > 0.05
    # all of the momentum's gain is given back: without a force rho_K would be gamma_0
    model.potential = lambda x, z, y: 0 * z.sum(1)
    torch.testing.assert_close(flow(start)[3:], start[3:])
    assert not torch.allclose(rho, start[3:])


def test_the_hamiltonian_flow_goes_downhill_and_keeps_the_energy():
    """Without tempering U(z) + |rho|^2 / 2 stays, while what is potential becomes kinetic."""
    model, x, y = hamiltonian()
    model.tempering_logit.data.fill_(40.0)
    z_0 = 3 * torch.randn(1, 3, generator=generator()).double()
    at_rest = torch.zeros(1, 3).double()
    z, rho = model.flow(x, y, z_0, at_rest)
    fall = (model.potential(x, z_0, y) - model.potential(x, z, y)).item()
    kinetic = (rho.square().sum() / 2).item()
    assert fall > 0.1
    assert kinetic == pytest.approx(fall, rel=0.02)


def test_hvae_loss_is_the_bound_along_its_flow():
    """U(z_K) + |rho_K|^2 / 2 + log q(z_0|x) - |gamma_0|^2 / 2 (eq. 9, negated)."""
    model, x, y = hamiltonian()
    found = model.losses(x, y, generator())
    mu, log_variance = model.encode(x, y)
    noise = torch.randn(2, 1, 3, generator=generator()).double()
    z_0 = mu + log_variance.exp().sqrt() * noise[0]
    z, rho = model.flow(x, y, z_0, noise[1])
    log_q = Independent(Normal(mu, log_variance.exp().sqrt()), 1).log_prob(z_0)
    log_prior = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1).log_prob(z)
    potential = model.reconstruction_loss(x, model.decode(z, y)) - log_prior
    expected = potential + rho.square().sum(1) / 2 + log_q - noise[1].square().sum(1) / 2
    torch.testing.assert_close(found["loss"], expected.mean())


# --- diffusion ----------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """In the network's place: notes what it is asked, and estimates nought."""

    def __init__(self, depth):
        super().__init__()
        self.depth, self.labels, self.times = depth, [], []

    def forward(self, x, t, class_labels=None):
        self.times.append(t)
        self.labels.append(class_labels)
        return type("Output", (), {"sample": torch.zeros(len(x), self.depth, *x.shape[2:])})()


def recorded(**options):
    model = build(ddim.DDIM, (1, 4, 4), channels=(32,), **options)
    model.network = Recorder(model.network.config["out_channels"])
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_ddim_is_told_the_labels_but_for_the_share_hidden(dropout):
    model = recorded(conditional=True, label_dropout=dropout)
    x, y = torch.rand(2000, 1, 4, 4, generator=generator()), torch.arange(2000) % 3
    model.loss(x, y, generator())
    told = model.network.labels[0]
    hidden = told == 3
    assert torch.equal(told[~hidden], y[~hidden])
    assert hidden.double().mean().item() == pytest.approx(dropout, abs=0.04)
    for label in range(3):
        assert hidden[y == label].double().mean().item() == pytest.approx(dropout, abs=0.07)
    assert recorded().network.labels == []


def test_ddim_trains_at_uniform_times():
    model = recorded(train_timesteps=100)
    model.loss(torch.rand(5000, 1, 4, 4), torch.zeros(5000).long(), generator())
    counts = torch.bincount(model.network.times[0], minlength=100)
    assert len(counts) == 100
    assert (counts - 50).abs().max() < 5 * math.sqrt(50)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_ddim_loss_of_an_estimate_of_nought(prediction):
    """Epsilon's mean square is 1; of x_0 in [-1, 1] it is weighted by min(SNR, limit) + 1."""
    model = recorded(prediction=prediction, snr_limit=5.0)
    x = torch.full((4000, 1, 4, 4), 0.9)
    loss = model.loss(x, torch.zeros(4000).long(), generator()).item()
    if prediction == "epsilon":
        assert loss == pytest.approx(1, rel=0.02)
    else:
        a = model.scheduler.alphas_cumprod[model.network.times[0]]
        weights = torch.minimum(a / (1 - a), torch.tensor(5.0)) + 1
        assert loss == pytest.approx((0.8**2 * weights).mean().item(), rel=1e-4)


def test_ddims_learning_rate_rises_and_falls_as_a_cosine():
    model = build(ddim.DDIM, channels=(32,), learning_rate=1e-3)
    optimizers, (x, y) = model.configure_optimizers(), batch()
    rates = []
    for step, fraction in ((0, 0.0), (49, 0.0), (500, 0.5), (900, 0.999)):
        model.training_step(x, y, optimizers, Progress(step, 0, fraction), generator())
        rates.append(optimizers["adamw"].param_groups[0]["lr"] / 1e-3)
    assert rates == pytest.approx([0.01, 0.5, 0.51, 0.01], abs=1e-3)


def test_a_conditional_ddim_tells_its_classes_apart():
    model = build(ddim.DDIM, channels=(32,), conditional=True).eval()
    nn.init.normal_(model.network.class_embedding.weight, generator=generator())
    nn.init.normal_(model.network.conv_out.weight, std=0.1, generator=generator())
    same, other = (model.sample(torch.full((4,), label), generator()) for label in (0, 1))
    assert not torch.equal(same, other)


@pytest.mark.parametrize(
    "family", [gan.ConditionalGAN, dcgan.DCGAN, wgan_gp.WGANGP, vae_gan_knee.KneeVAEGAN, vae_gan.VAEGAN]
)
def test_a_conditional_discriminator_is_told_the_label(family):
    """Its verdict on one image depends on the class it is said to be of; a blind one's does not."""
    choice = {"conditional": True} if "conditional" in family.Hyperparameters.model_fields else {}
    x = torch.rand(1, *SHAPE, generator=generator()).repeat(3, 1, 1, 1)
    for told in (True, False):
        if not told and not choice:
            continue
        model = build(family, **({"conditional": told} if choice else {})).eval()
        judge = model.D if hasattr(model, "D") else lambda x, y, model=model: model.discriminate(x, y)[1]
        verdicts = judge(x, torch.arange(3)).detach()
        assert (float((verdicts - verdicts[0]).abs().max()) > 1e-6) is told


def test_knee_ssim_is_the_same_under_autocast():
    """Differences of squares lose their digits in bfloat16: half of this value used to be rounding."""
    x = torch.rand(4, 1, 24, 24, generator=generator())
    y = (x + 0.1 * torch.randn(x.shape, generator=generator(5))).clamp(0, 1).requires_grad_()
    plain = vae_gan_knee.ssim(y, x)
    (gradient,) = torch.autograd.grad(plain, y)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = vae_gan_knee.ssim(y, x)
    assert lowered.detach().item() == pytest.approx(plain.detach().item(), rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(lowered, y)[0], gradient)


def test_vqvae_loss_by_hand():
    """Eq. 3 with the squared error in units of the noise's scale: means over numbers."""
    model = build(vqvae.VQVAE, width=4, code_dim=2, codes=3, noise_scale=0.4, commitment=0.7)
    with torch.no_grad():
        model.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]))
    z_e = torch.full((2, 2, 4, 4), 0.8)
    model.encode = lambda x: z_e
    model.decode = lambda z_q: torch.full((2, *SHAPE), 0.25) * z_q.mean()
    found, _ = model.losses(torch.full((2, *SHAPE), 0.75))
    expected = 0.5**2 / (2 * 0.4**2)
    assert found["reconstruction"].item() == pytest.approx(expected, rel=1e-5)
    assert found["loss"].item() == pytest.approx(expected + 0.2**2 + 0.7 * 0.2**2, rel=1e-5)


def test_ddim_starts_from_pure_noise():
    """The shipped steps are 'trailing' with a signal of nought at the first one (Lin et al. 2024): t = T - 1, alpha_T = 0."""
    model = build(ddim.DDIM)
    steps = model.hyperparameters.sampling_steps
    model.scheduler.set_timesteps(steps)
    times = model.scheduler.timesteps.tolist()
    assert times[0] == model.hyperparameters.train_timesteps - 1
    assert len(times) == steps
    spacing = model.hyperparameters.train_timesteps / steps
    assert times == [round(model.hyperparameters.train_timesteps - index * spacing) - 1 for index in range(steps)]
    assert model.scheduler.alphas_cumprod[-1].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("identity", [0.0, 0.5])
def test_cyclegan_generators_descend_equation_3(identity):
    """Networks replaced: G adds 0.1 for each step from class a to b, D answers with the image's mean."""
    model = build(cyclegan.CycleGAN, width=4, residual_blocks=1, cycle=3.0, identity=identity)
    weight = torch.nn.Parameter(torch.tensor(0.1))
    model.generators = nn.ModuleDict({"any": nn.ParameterList([weight])})
    model.G = lambda x, a, b: x + weight * (1 + (b - a).abs()).view(-1, 1, 1, 1)
    model.D = lambda x, b: x.mean((1, 2, 3), keepdim=True)
    model.discriminators = nn.ModuleDict({"any": nn.Linear(1, 1)})
    x, a = batch()
    b = model.targets(a, generator())
    moved = 0.1 * (1 + (b - a).abs()).float()
    adversarial = ((2 * x - 1).mean((1, 2, 3)) + moved - 1).square().mean()
    told = {}
    steps = []
    cyclegan_step = cyclegan.step
    try:
        cyclegan.step = lambda optimizer, loss: steps.append(loss.item())
        told = model.training_step(x, a, {"generator": None, "discriminator": None}, Progress(0, 0, 0.0), generator())
    finally:
        cyclegan.step = cyclegan_step
    cycle = (2 * moved).mean()
    assert told["adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-5)
    assert told["cycle"].item() == pytest.approx(cycle.item(), rel=1e-4)
    assert steps[0] == pytest.approx((adversarial + 3 * cycle + identity * 3 * 0.1).item(), rel=1e-4)
