import platform
import subprocess
import sys

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from ladder_vae.system import compilation, devices
from ladder_vae.system.compilation import choose, compiled, compiler
from ladder_vae.system.devices import choose_precision, fast_products, has_bfloat16
from ladder_vae.system.errors import UserError


@pytest.mark.parametrize(("has", "auto"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_follows_the_hardware(monkeypatch, has, auto):
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: has)
    assert choose_precision("auto", "cpu") == auto
    assert choose_precision("32-true", "cpu") == "32-true"


def test_a_precision_that_the_machine_lacks_is_named_with_the_one_that_works(monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: False)
    with pytest.raises(
        UserError, match=r"needs bfloat16 units, which this cpu does not have; set .*=32-true"
    ):
        choose_precision("bf16-mixed", "cpu")
    with pytest.raises(UserError, match="choose auto, 32-true, bf16-mixed"):
        choose_precision("16-mixed", "cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "nonsense"])
def test_asking_for_bfloat16_never_fails(device):
    assert has_bfloat16(device) in (True, False)


def test_compiling_is_chosen_where_it_pays():
    assert [choose("compile", "auto", pays) for pays in (True, False)] == [True, False]
    assert choose("compile", "True", False)  # as Hydra writes it
    assert not choose("compile", "false", True)
    assert choose("compile", True, False)
    with pytest.raises(UserError, match=r"trainer\.compile=yes is unknown; choose auto, true, false"):
        choose("trainer.compile", "yes", True)


@pytest.fixture
def stub(monkeypatch):
    """In place of ``torch.compile``: doubles what the function gives, or fails as a compiler does."""
    monkeypatch.setattr(compilation, "compiler", lambda: "g++")

    def use(fails=False):
        def compile(function, **settings):
            def fast(*arguments):
                if fails:
                    raise TorchDynamoException("g++ found no\nheader")
                return 2 * function(*arguments)

            return fast

        monkeypatch.setattr(torch, "compile", compile)

    return use


def trust(fast, arguments):
    return ""


def test_only_the_first_shape_is_compiled(stub):
    stub()
    call = compiled(lambda x, y: x + y, trust)
    ones = torch.ones
    assert [float(call(ones(n), ones(1))[0]) for n in (3, 3, 2, 3)] == [4, 4, 2, 4]


def test_a_failing_compiler_costs_one_warning(stub, capsys):
    stub(fails=True)
    call = compiled(lambda x: x + 1, trust)
    assert [call(torch.zeros(())).item() for _ in range(3)] == [1, 1, 1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: going on without compilation, which failed (")
    assert "g++ found no header" in line


def test_no_compiler_costs_one_warning(monkeypatch, capsys):
    monkeypatch.setattr(compilation, "compiler", lambda: None)
    call = compiled(lambda x: x + 1, trust)
    assert [call(torch.zeros(())).item() for _ in range(3)] == [1, 1, 1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no C++ compiler was found")


def test_the_compiler_of_the_environment_counts(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler() is None
    (tmp_path / "mine").touch(mode=0o755)
    monkeypatch.setenv("CXX", "mine")
    assert compiler() == "mine"


def test_fast_products_end_with_their_block():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for device, precision in (("cpu", "medium"), ("cuda", "highest")):
        with fast_products(device):
            assert torch.get_float32_matmul_precision() == precision
            assert not torch.backends.cudnn.allow_tf32
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


COUNT_FAULTS = """
import resource, torch
from ladder_vae.system.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for prepare in (lambda: None, keep_freed_memory):
    prepare()
    print(sorted(faults() for _ in range(41))[20])  # at first an aligned block may miss the freed one
"""


def test_memory_is_kept():
    """A block of 64 MB, freed and taken again, is not faulted in anew."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("glibc only")
    # In a process of its own: where a block comes from depends on all that a process has freed before.
    returned, kept = map(
        int, subprocess.check_output([sys.executable, "-c", COUNT_FAULTS], text=True).split()
    )
    if returned < 1_000:
        pytest.skip("the system gives huge pages")
    assert kept < 1_000 < returned  # of 15,625 pages


def test_a_chosen_gpu_becomes_the_current_one(monkeypatch):
    """A CUDA graph holds what is done on the current GPU; work on another is done once, not replayed."""
    chosen = []
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # there is one
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        assert devices.choose_device(name) == torch.device(name)
    assert chosen == [torch.device("cuda:1")]
