"""Fast functions against PyTorch's own, and against float64."""

import pytest
import torch
import torch.nn.functional as F

from ladder_vae.elementary import coarse_softplus, expm1, softplus

A = torch.cat([torch.linspace(-87, 87, 20_001), torch.linspace(-1e-3, 1e-3, 2_001)])
FAST = {softplus: F.softplus, coarse_softplus: F.softplus, expm1: torch.expm1}


def exact(fast, a):
    # F.softplus is the identity from 20 on
    return torch.expm1(a) if fast is expm1 else torch.log1p(torch.exp(a))


@pytest.mark.parametrize("fast", FAST)
def test_error_of_a_few_roundings(fast):
    coarse = fast is coarse_softplus
    for dtype in (torch.float32, torch.float64):
        rounding = torch.finfo(dtype).eps
        a = A.to(dtype)
        error = (fast(a).double() - exact(fast, a.double())).abs()
        assert (error <= 5 * rounding * exact(fast, a.double()).abs() + rounding * coarse + 1e-44).all()


@pytest.mark.parametrize("fast", FAST)
def test_far_out(fast):
    far = torch.tensor([-1e30, -200.0, 200.0, 1e30, float("-inf"), float("inf"), float("nan")])
    torch.testing.assert_close(fast(far), FAST[fast](far), equal_nan=True)


@pytest.mark.parametrize("fast", FAST)
def test_gradients(fast):
    a = torch.tensor([-30.0, -1.0, -0.0, 0.0, 1e-9, 2.0, 15.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fast, (a,))
    (gradient,) = torch.autograd.grad(fast(a).sum(), a)
    exact_gradient = torch.exp(a) if fast is expm1 else torch.sigmoid(a)
    torch.testing.assert_close(gradient, exact_gradient, rtol=1e-14, atol=0)


def test_compiled_agrees_with_plain():
    """In a form that needs no compiler on the machine."""
    a = torch.randn(50, requires_grad=True)
    for fast in FAST:
        traced = torch.compile(fast, backend="aot_eager")
        torch.testing.assert_close(traced(a), fast(a), rtol=1e-6, atol=1e-7)
        (one,), (other,) = (torch.autograd.grad(f(a).sum(), a) for f in (traced, fast))
        torch.testing.assert_close(one, other)
