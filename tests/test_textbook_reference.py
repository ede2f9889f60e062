"""The textbook model against plain PyTorch, written out from the equations; index 0 is next to the data."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ladder_vae.models import TextbookVAE


class Reference(nn.Module):
    def __init__(self, latents):
        super().__init__()
        top = len(latents) - 1
        self.up = nn.ModuleList(nn.Linear(784 if i == 0 else 256, 256) for i in range(top + 1))
        above = [0 if i == top else latents[i + 1] for i in range(top + 1)]
        self.q_mu = nn.ModuleList(nn.Linear(256 + a, d) for a, d in zip(above, latents, strict=True))
        self.q_lv = nn.ModuleList(nn.Linear(256 + a, d) for a, d in zip(above, latents, strict=True))
        self.p_mu = nn.ModuleList(nn.Linear(a, d) for a, d in zip(above[:-1], latents, strict=False))
        self.p_lv = nn.ModuleList(nn.Linear(a, d) for a, d in zip(above[:-1], latents, strict=False))
        self.dec = nn.ModuleList([nn.Linear(latents[0], 256), nn.Linear(256, 256), nn.Linear(256, 784)])

    def forward(self, x, eps):
        h, hs = x.flatten(1), []
        for layer in self.up:
            h = F.relu(layer(h))
            hs.append(h)
        kls, z = [0] * len(hs), None
        for i in reversed(range(len(hs))):
            if z is None:
                mu, lv = self.q_mu[i](hs[i]), self.q_lv[i](hs[i])
                mu_p, lv_p = torch.zeros_like(mu), torch.zeros_like(lv)
            else:
                both = torch.cat([hs[i], z], 1)
                mu, lv = self.q_mu[i](both), self.q_lv[i](both)
                mu_p, lv_p = self.p_mu[i](z), self.p_lv[i](z)
            z = mu + torch.exp(0.5 * lv) * eps[i]
            kls[i] = 0.5 * (lv_p - lv + (lv.exp() + (mu - mu_p) ** 2) / lv_p.exp() - 1).sum(1)
        probs = torch.sigmoid(self.dec[2](F.relu(self.dec[1](F.relu(self.dec[0](z))))))
        log_px = -F.binary_cross_entropy(probs, x.flatten(1), reduction="none").sum(1)
        return log_px, torch.stack(kls)


def copy_weights(reference: Reference, model: TextbookVAE) -> None:
    def fill(ours, *theirs):
        ours.weight.data = torch.cat([t.weight.data for t in theirs])
        ours.bias.data = torch.cat([t.bias.data for t in theirs])

    for i, rung in enumerate(model.rungs):
        fill(model.encoder[i], reference.up[i])
        fill(rung.posterior_net, reference.q_mu[i], reference.q_lv[i])
        if rung.prior_net is not None:
            fill(rung.prior_net, reference.p_mu[i], reference.p_lv[i])
    body, out, _ = model.decoder
    for ours, theirs in zip((body[0], body[2], out), reference.dec, strict=True):
        fill(ours, theirs)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 5])
def test_same_weights_and_noise_give_the_same_numbers(num_layers):
    torch.manual_seed(num_layers)
    reference = Reference([max(32 >> i, 4) for i in range(num_layers)]).double()
    model = TextbookVAE((1, 28, 28), num_layers).double()
    copy_weights(reference, model)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in reference.parameters())

    x = torch.randint(0, 2, (6, 1, 28, 28)).double()
    noise = model.draw_noise(1, 6, like=x)
    log_px, kls = reference(x, [e[0] for e in noise])
    inference = model.infer(x, noise=noise)

    torch.testing.assert_close(inference.log_px[0], log_px, rtol=0, atol=1e-10)
    torch.testing.assert_close(inference.rates()[:, 0], kls, rtol=0, atol=1e-10)
    expected = (log_px - kls.sum(0)).mean()
    torch.testing.assert_close(inference.terms().mean().elbo, expected, rtol=0, atol=1e-10)
