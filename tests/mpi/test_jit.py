"""Forms that a killed process was compiling."""

from __future__ import annotations

from pathlib import Path

import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="FFCx compiles")

import ffcx.codegeneration.jit as ffcx

from lrsa_coupled.coupling import jit
from lrsa_coupled.files import process_name
from tests.helpers import killed_process

pytestmark = pytest.mark.two_ranks

NAME = "libffcx_forms_0123"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this rank."""
    monkeypatch.setattr(ffcx, "get_cached_module", ffcx.get_cached_module)
    monkeypatch.setitem(jit.dolfinx.jit.DOLFINX_DEFAULT_JIT_OPTIONS, "timeout", (1, ""))
    jit.compile_abandoned_forms()
    return tmp_path / str(MPI.COMM_WORLD.rank)


def is_to_compile(cache: Path) -> bool:
    return ffcx.get_cached_module(NAME, [], cache, 1) == (None, None)


def mark(cache: Path, process: str) -> Path:
    return cache / f"{NAME}.{process}{jit.MARK}"


def test_a_form_that_a_killed_process_was_compiling_is_compiled(cache: Path) -> None:
    assert is_to_compile(cache)
    mine = mark(cache, process_name())
    gone = mine.rename(mark(cache, killed_process()))
    assert is_to_compile(cache)
    assert mine.exists() and not gone.exists()


def test_a_form_that_another_process_compiles_is_waited_for(cache: Path) -> None:
    assert is_to_compile(cache)
    other = mark(cache, process_name()).rename(mark(cache, "elsewhere~1"))
    with pytest.raises(TimeoutError, match=NAME):
        is_to_compile(cache)
    assert other.exists()
    (cache / f"{NAME}.c.cached").touch()
    with pytest.raises(ModuleNotFoundError):  # this test has no library; the mark is of no use any more
        is_to_compile(cache)
    assert not other.exists() and (cache / f"{NAME}.c").exists()
