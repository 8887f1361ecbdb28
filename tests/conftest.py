"""Fixtures and the behaviour of pytest under mpiexec: rank 0 reports, the others speak of failures only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lrsa_coupled import mpi

if TYPE_CHECKING:
    from mpi4py import MPI


class FailuresOnly:
    """Prints the failures of a rank whose terminal reporter is off."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(f"[rank {mpi.rank()}] {report.nodeid}\n{report.longreprtext}", file=sys.__stderr__, flush=True)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            print(f"[rank {mpi.rank()}] {report.nodeid}\n{report.longreprtext}", file=sys.__stderr__, flush=True)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if mpi.rank() > 0 and reporter is not None:
        config.pluginmanager.unregister(reporter)
        config.pluginmanager.register(FailuresOnly())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-ranks", action="store_true", help="also what is marked two_ranks, on three and more")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out on three ranks what is marked ``two_ranks``: three ranks on two cores take several times as long."""
    if mpi.size() > 2 and not config.getoption("--all-ranks"):
        left_out = [item for item in items if item.get_closest_marker("two_ranks")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _fresh_policies() -> None:
    """Each test has records of its own: the policies of attach live as long as the process."""
    policy = sys.modules.get("lrsa_coupled.guess.policy")
    if policy is not None:
        policy.forget_policies()


@pytest.fixture(scope="session")
def comm() -> MPI.Intracomm:
    """The world communicator; skips where there is no MPI library."""
    try:
        return mpi.world()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no MPI library: {error}")


@pytest.fixture
def shared_path(comm: MPI.Intracomm, tmp_path: Path) -> Path:
    """A temporary folder that is the same on all ranks. Collective."""
    return comm.bcast(tmp_path, root=0)


@pytest.fixture
def cuda() -> str:
    """The name of the GPU device; skips where there is none."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"
