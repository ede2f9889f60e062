"""Elementary functions in float32 beside PyTorch's in float64, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from ladder_vae.maths.elementary import (
    FLAT,
    NEAR,
    STEEP,
    exp_beyond_line,
    fast_exp_beyond_line,
    fast_softplus,
    softplus,
)
from ladder_vae.system.compilation import compiler

COMPILER = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


def near(*edges):
    """Numbers over a wide range, and the two next to each edge."""
    at = torch.tensor(edges)
    wide = torch.cat([torch.linspace(-100, 100, 20_001), torch.linspace(-6, 6, 20_001)])
    return torch.cat([wide, at, at.nextafter(at + 1), at.nextafter(at - 1), torch.zeros(1)])


CASES = {
    "softplus": (fast_softplus, F.softplus, near(FLAT, STEEP), 4e-6),
    "exp_beyond_line": (
        fast_exp_beyond_line,
        lambda d: torch.expm1(d) - d,
        near(-NEAR, NEAR).clamp(-80, 80),
        2e-6,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=[pytest.mark.slow, COMPILER])])
def test_values_and_gradients(name, compiled):
    function, exact, points, tolerance = CASES[name]
    function = torch.compile(function, dynamic=False) if compiled else function
    x, exact_x = points.clone().requires_grad_(), points.double().requires_grad_()
    y, exact_y = function(x), exact(exact_x)
    torch.testing.assert_close(y.double(), exact_y, rtol=tolerance, atol=1e-40)
    (slope,) = torch.autograd.grad(y.sum(), x)
    (exact_slope,) = torch.autograd.grad(exact_y.sum(), exact_x)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=2 * tolerance, atol=2e-7)


@pytest.mark.parametrize(("function", "size"), [(fast_softplus, float("inf")), (fast_exp_beyond_line, 1e4)])
def test_large_numbers_have_values_and_gradients(function, size):
    x = torch.tensor([-size, size], requires_grad=True)
    y = function(x)
    assert not y.isnan().any()
    y.sum().backward()
    assert not x.grad.isnan().any()


def test_equal_numbers_are_exactly_zero_apart():
    assert fast_exp_beyond_line(torch.zeros(3)).tolist() == [0, 0, 0]
    assert (fast_exp_beyond_line(near(-NEAR, NEAR).clamp(-80, 80)) >= 0).all()


@pytest.mark.parametrize(
    ("function", "curvature"),
    [(fast_softplus, lambda a: a.sigmoid() * (-a).sigmoid()), (fast_exp_beyond_line, lambda d: d.exp())],
)
def test_second_derivatives_and_transforms(function, curvature):
    x = torch.tensor([-9.0, STEEP - 0.1, STEEP + 0.1, -NEAR - 0.1, -0.2, 0.0, 0.3, NEAR + 0.1, 3.0, FLAT + 1])
    exact = curvature(x.double())
    by_functions = torch.func.vmap(torch.func.grad(torch.func.grad(function)))(x)
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(point).sum(), point, create_graph=True)
    (by_graph,) = torch.autograd.grad(slope.sum(), point)
    torch.testing.assert_close(by_functions.double(), exact, rtol=1e-5, atol=3e-7)
    torch.testing.assert_close(by_graph.double(), exact, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("function", [softplus, exp_beyond_line])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_left_to_pytorch(function, kind):
    x = torch.linspace(-9, 9, 37).to(kind)
    with torch.no_grad():
        torch.testing.assert_close(function(x), function(x.double()).to(kind), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("function", "fast"), [(softplus, fast_softplus), (exp_beyond_line, fast_exp_beyond_line)]
)
def test_expressions_are_used_where_they_are_faster(function, fast, monkeypatch):
    x = torch.linspace(-9, 9, 1001)
    assert not torch.equal(function(x), fast(x))  # they differ in last bits
    with torch.no_grad():
        assert torch.equal(function(x), fast(x))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(function(x), fast(x))
