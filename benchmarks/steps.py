"""Where the time of a training step goes, by kind of work: ``python -m benchmarks.steps [plain]``.

Rests on nothing but model and objective, so that it runs on older commits, too.
"""

from __future__ import annotations

import re
import sys
import time

import torch
import torch._inductor.config
from torch.profiler import ProfilerActivity, profile

from ladder_vae.models import LadderVAE

BATCH, STEPS = 256, 50
KINDS = {  # the first whose pattern fits
    "matrix products": r"aten::(mm|addmm|linear|bmm)$",
    "optimizer": r"Adam|adam|_foreach_add_$|aten::item$|_local_scalar_dense",
    "batch norm": r"batch_norm",
    "softplus, log1p, expm1, logaddexp": r"softplus|log1p|expm1|logaddexp|Softplus|Expm1",
    "other elementwise work and sums": r"graph_\d+_cpp_fused|aten::(mul|add|sub|exp|log|sum|neg|div|pow|mean|"
    r"leaky_relu|sigmoid|clamp|abs|where|eq|minimum|tanh|reciprocal)",
    "copies and casts": r"copy|aten::to$|contiguous|aten::cat|aten::stack",
    "drawing": r"normal_|random_|randn|nonzero|index|aten::lt",
}


def time_by_kind(plain: bool) -> tuple[dict[str, float], float]:
    """Milliseconds a step of each kind of work under the profiler, and of the whole without it."""
    torch.manual_seed(0)
    torch._inductor.config.cpp.enable_kernel_profile = True
    model = LadderVAE((1, 28, 28), num_layers=5, hidden_sizes=[512, 256, 128, 64, 64])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=not plain)
    current = [v for v in model.state_dict().values() if v.is_floating_point()]
    average = [v.clone() for v in current]

    def loss_of(x: torch.Tensor, *noise: torch.Tensor) -> torch.Tensor:
        terms = model.infer(x, noise=noise).terms().mean()
        return terms.distortion + terms.rate

    loss_of = loss_of if plain else torch.compile(loss_of, dynamic=False)
    x = (torch.rand(BATCH, 1, 28, 28) < 0.2).float()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=not plain):
            loss = loss_of(x, *model.draw_noise(1, BATCH, like=x))
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, current, 0.001)

    for _ in range(20):
        step()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    whole = (time.perf_counter() - began) / STEPS * 1e3
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    found = dict.fromkeys([*KINDS, "averaging, Python and the rest"], 0.0)
    for event in profiled.key_averages():
        fits = (kind for kind, pattern in KINDS.items() if re.search(pattern, event.key))
        found[next(fits, "averaging, Python and the rest")] += event.self_cpu_time_total / STEPS / 1e3
    return found, whole


if __name__ == "__main__":
    try:
        from ladder_vae.system.memory import keep_freed_memory
    except ImportError:  # an older commit
        pass
    else:
        if "plain" not in sys.argv[1:]:
            keep_freed_memory()
    kinds, total = time_by_kind("plain" in sys.argv[1:])
    for kind, milliseconds in kinds.items():
        print(f"{kind:40s} {milliseconds:6.2f} ms")
    print(f"{'together':40s} {sum(kinds.values()):6.2f} ms; a step without the profiler {total:.2f} ms")
