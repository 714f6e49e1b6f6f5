"""Closed forms of the mixture, vector-quantised and Hamiltonian autoencoders, and that each learns."""

import pytest
import torch
from torch.nn import functional as F

from baselines import gmvae, hvae, vqvae
from bench.model import Progress

SHAPE = (1, 16, 16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(family, shape=SHAPE, classes=2, **hyperparameters):
    torch.manual_seed(0)
    return family(shape, classes, family.Hyperparameters(**hyperparameters))


def bars(n=64, shape=SHAPE):
    """A bright bar at one of a few places, upright or level: a small world that codes can hold."""
    images, labels = torch.full((n, *shape), 0.1), torch.arange(n) % 2
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        at = 2 + 3 * (index // 2 % 4)
        image[:, at : at + 3] = 0.9
        if label:
            images[index] = image.transpose(1, 2).clone()
    return images, labels


def train(model, steps, stages=True, batch=32):
    images, labels = bars()
    optimizers, rng = model.configure_optimizers(), generator()
    model.train()
    losses = []
    for number in range(steps):
        part = torch.randperm(len(images), generator=rng)[:batch]
        fraction = number / steps
        stage = ("autoencoder" if fraction < 0.6 else "prior") if stages and model.stages else ""
        progress = Progress(number, number * batch, fraction, stage)
        losses.append(model.training_step(images[part], labels[part], optimizers, progress, rng))
    model.eval()
    return losses


# --- GMVAE --------------------------------------------------------------------------------------------------------------


def test_mixture_kl_is_its_monte_carlo_estimate():
    """KL(q(z) q(c) || p(z, c)) from 200,000 draws of (z, c); its standard error is printed by the tolerance."""
    n, d, k, draws = 3, 4, 5, 200_000
    mu, log_variance = torch.randn(2, n, d, generator=generator()).unbind()
    means, log_variances = torch.randn(2, k, d, generator=generator(1)).unbind()
    log_pi = torch.randn(k, generator=generator(2)).log_softmax(0)
    log_posterior = torch.randn(n, k, generator=generator(3)).log_softmax(1)
    closed = gmvae.mixture_kl(mu, log_variance, log_posterior, log_pi, means, log_variances)
    for index in range(n):
        z = mu[index] + (log_variance[index] / 2).exp() * torch.randn(draws, d, generator=generator(4))
        c = torch.multinomial(log_posterior[index].exp(), draws, replacement=True, generator=generator(5))
        q = gmvae.log_normal(z, mu[index], log_variance[index]) + log_posterior[index, c]
        p = gmvae.log_normal(z, means[c], log_variances[c]) + log_pi[c]
        samples = q - p
        error = samples.std() / draws**0.5
        assert abs(samples.mean() - closed[index]) < 5 * error
        assert error < 0.05 * closed[index]


def test_one_standard_component_is_the_vaes_kl():
    mu, log_variance = torch.randn(2, 6, 4, generator=generator()).unbind()
    zeros = torch.zeros(1, 4)
    found = gmvae.mixture_kl(mu, log_variance, torch.zeros(6, 1), torch.zeros(1), zeros, zeros)
    expected = (mu.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
    torch.testing.assert_close(found, expected)


def test_a_mixture_prior_draws_from_its_components():
    model = build(gmvae.GMVAE, latent_dim=2, components=3).eval()
    model.means.data = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, 0.0]])
    model.log_variances.data.fill_(-6)
    model.logits.data = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = []
    model.decode = lambda z, y: drawn.append(z) or torch.zeros(len(z), *SHAPE)
    model.sample(torch.zeros(4000, dtype=torch.int64), generator())
    nearest = torch.cdist(drawn[0], model.means).argmin(1).bincount(minlength=3) / 4000
    torch.testing.assert_close(nearest, torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)


def test_gmvae_learns():
    losses = train(build(gmvae.GMVAE, latent_dim=8, dense_widths=(64,), components=4), 200)
    assert losses[-1]["reconstruction"] < 0.3 * losses[0]["reconstruction"]
    assert losses[-1]["loss"] < 0.4 * losses[0]["loss"]


# --- HVAE ---------------------------------------------------------------------------------------------------------------


def quartic(z):
    return z + 0.3 * z**3


@pytest.mark.parametrize("steps", [1, 7])
def test_leapfrog_is_reversible(steps):
    """Forward, momentum turned round, as many steps again, turned round: where it began (in float64, to 1e-10)."""
    z_0, rho_0 = torch.randn(2, 5, 3, generator=generator(), dtype=torch.float64).unbind()
    size = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    z, rho = z_0, rho_0
    for _ in range(steps):
        z, rho = hvae.leapfrog(z, rho, size, quartic)
    assert (z - z_0).abs().max() > 0.01
    rho = -rho
    for _ in range(steps):
        z, rho = hvae.leapfrog(z, rho, size, quartic)
    torch.testing.assert_close(z, z_0, rtol=0, atol=1e-10)
    torch.testing.assert_close(-rho, rho_0, rtol=0, atol=1e-10)


def test_leapfrog_keeps_volume_and_nearly_energy():
    size = torch.tensor([0.1, 0.2], dtype=torch.float64)
    start = torch.tensor([0.7, -1.1, 0.4, 0.9], dtype=torch.float64)

    def step(x):
        return torch.cat([part[0] for part in hvae.leapfrog(x[None, :2], x[None, 2:], size, quartic)])

    jacobian = torch.autograd.functional.jacobian(step, start)
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-12)

    def energy(x):
        return (x[:2].square() / 2 + 0.3 * x[:2] ** 4 / 4).sum() + x[2:].square().sum() / 2

    assert energy(step(start)).item() == pytest.approx(energy(start).item(), rel=0.01)


def test_tempering_ends_at_one_and_grows():
    roots = hvae.tempering(torch.tensor(0.5), 4)
    assert roots[0].item() == pytest.approx(0.5)
    assert roots[-1].item() == pytest.approx(1)
    assert (roots.diff() > 0).all()


def test_hvae_without_flow_is_the_vaes_bound():
    """With steps of size 0 and no tempering the loss is that of one draw from q: reconstruction + log q - log p."""
    model, (x, y) = build(hvae.HVAE, latent_dim=4, dense_widths=(32,)).eval(), bars(8)
    model.step_logits.data.fill_(-40)
    model.tempering_logit.data.fill_(40)
    found = model.losses(x, y, generator(3))
    mu, log_variance = model.encode(x, y)
    z = mu + (log_variance / 2).exp() * torch.randn(2, *mu.shape, generator=generator(3))[0]
    zeros = torch.zeros_like(z)
    expected = model.reconstruction_loss(x, model.decode(z, y)) + gmvae.log_normal(z, mu, log_variance)
    torch.testing.assert_close(found["loss"], (expected - gmvae.log_normal(z, zeros, zeros)).mean())


def test_hvae_learns_step_sizes_too():
    model = build(hvae.HVAE, latent_dim=8, dense_widths=(64,))
    before = model.step_logits.detach().clone()
    losses = train(model, 200)
    assert losses[-1]["loss"] < 0.4 * losses[0]["loss"]
    assert not torch.equal(model.step_logits, before)


# --- VQ-VAE -------------------------------------------------------------------------------------------------------------


def test_straight_through_gradient_is_that_at_the_quantised_output():
    """d loss / d z_e equals d loss / d z_q, and nothing goes to the codebook through it."""
    z_e = torch.randn(2, 3, 4, 4, generator=generator(), requires_grad=True)
    codebook = torch.randn(6, 3, generator=generator(1), requires_grad=True)
    _, z_q = vqvae.quantise(z_e, codebook)
    target = torch.randn(2, 3, 4, 4, generator=generator(2))
    (F.mse_loss(vqvae.straight_through(z_e, z_q), target) * 7).backward()
    free = z_q.detach().requires_grad_()
    (F.mse_loss(free, target) * 7).backward()
    torch.testing.assert_close(z_e.grad, free.grad)
    assert codebook.grad is None


def test_quantisation_takes_the_nearest_code():
    z_e = torch.randn(2, 3, 5, 4, generator=generator())
    codebook = torch.randn(9, 3, generator=generator(1))
    k, z_q = vqvae.quantise(z_e, codebook)
    distances = torch.cdist(z_e.permute(0, 2, 3, 1).reshape(-1, 3), codebook)
    assert torch.equal(k.flatten(), distances.argmin(1))
    torch.testing.assert_close(z_q.permute(0, 2, 3, 1), codebook[k])


def test_codebook_and_commitment_pull_each_other_only():
    """Eq. 3: the codebook's gradient has no part in the reconstruction, the encoder's commitment none in the codebook."""
    model, (x, _) = build(vqvae.VQVAE, width=8, code_dim=4, codes=8, prior_width=8, prior_layers=1), bars(4)
    losses, _ = model.losses(x)
    (gradient,) = torch.autograd.grad(losses["loss"], [model.codebook])
    z_e = model.encode(x).detach()
    free = model.codebook.detach().clone().requires_grad_()
    F.mse_loss(vqvae.quantise(z_e, free)[1], z_e).backward()
    torch.testing.assert_close(gradient, free.grad)


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 3)])
def test_the_prior_sees_only_codes_before(place):
    """Changing a code changes no logits at its own place or before it, and some after it (if there are any)."""
    torch.manual_seed(0)
    prior, y = vqvae.PixelCNN(5, 8, 3, 2), torch.zeros(1, dtype=torch.int64)
    k = torch.randint(5, (1, 4, 4), generator=generator())
    other = k.clone()
    other[0][place] = (k[0][place] + 1) % 5
    changed = (prior(k, y) != prior(other, y)).any(1).flatten()
    at = place[0] * 4 + place[1]
    assert not changed[: at + 1].any()
    assert changed[at + 1 :].any() == (at < 15)


def test_the_priors_stage_leaves_the_autoencoder_as_it_is():
    model = build(vqvae.VQVAE, width=8, code_dim=4, codes=8, prior_width=8, prior_layers=1)
    optimizers, (x, y) = model.configure_optimizers(), bars(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.training_step(x, y, optimizers, Progress(0, 0, 0.7, "prior"), generator())
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("prior.") for name in moved)
    model.training_step(x, y, optimizers, Progress(0, 0, 0.1, "autoencoder"), generator())
    now = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in now - moved} >= {"encoder", "decoder", "codebook"}


def test_dead_codes_move_to_what_the_encoder_gives():
    model = build(vqvae.VQVAE, width=8, code_dim=4, codes=8, prior_width=8, prior_layers=1)
    model.usage[:5] = 3.0
    before, vectors = model.codebook.detach().clone(), torch.randn(20, 4, generator=generator())
    model.revive(vectors, generator(1))
    assert torch.equal(model.codebook[:5], before[:5])
    for code in model.codebook[5:]:
        assert (code == vectors).all(1).any()


def test_vqvae_learns_in_both_stages_and_draws_what_it_saw():
    """Eight images in all: the autoencoder gives them back, the prior's entropy falls, and samples are among them."""
    model = build(vqvae.VQVAE, width=16, code_dim=8, codes=16, grid=4, prior_width=32, prior_layers=2, conditional=True)
    losses = train(model, 500)
    first, last = losses[0], [entry for entry in losses if "reconstruction" in entry][-1]
    assert last["reconstruction"] < 0.15 * first["reconstruction"]
    priors = [entry["prior"] for entry in losses if "prior" in entry]
    assert priors[-1] < 0.35 * priors[0]
    images, _ = bars(8)
    labels = torch.arange(16) % 2
    drawn = model.sample(labels, generator())
    nearest = torch.cdist(drawn.flatten(1), images.flatten(1))
    assert (nearest.min(1).values / 16 < 0.25).float().mean() > 0.7  # root mean square difference
    assert ((nearest.argmin(1) % 2) == labels).float().mean() > 0.7  # bars lie as the label says
