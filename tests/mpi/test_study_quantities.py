"""Quantities that a study keeps with its solves: of one kind in a folder, each solve once, failures not hidden."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the study needs DOLFINx")

import ufl
from dolfinx import fem
from petsc4py import PETSc

from lrsa_coupled import Learning, attach
from lrsa_coupled.data.statistics import counted, field_statistics, quantity_statistics
from lrsa_coupled.study.study import end_studies
from tests.mpi.test_study import Script, folder, stored

__all__ = ["folder"]
pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD


def test_a_solve_that_cannot_be_described_is_left_out(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """The next ones are kept; a quantity that is no number is left out of its sample."""
    script, extra = Script(), fem.Constant(Script().space.mesh, 1.0)
    script.scalars["extra"] = extra
    script.u.x.array[:] = 0.0
    quantities = {"mean": script.u * ufl.dx, "odd": script.u / fem.Constant(script.space.mesh, 0.0) * ufl.dx}
    learn = Learning(folder, overhead=1e-9)
    attached = attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=learn, quantities=quantities)
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            extra.value = np.nan if number in (2, 3) else 1.0
            script.solve(number)
    assert attached.learner.broken is None
    text = attached.summary()
    attached.learner.study.close()
    if COMM.rank == 0:
        assert caplog.text.count("nothing is learned from this solve") == 1 and "'extra' must be finite" in caplog.text
        assert "samples: 4 in " in text and "; not kept: 2 that cannot be described" in text
    COMM.Barrier()
    kept = stored(folder)
    assert kept.solved == [0, 1, 2, 3] and list(json.loads(kept.read(1).quantities)) == ["mean"]


def test_what_ends_a_solve_or_is_refused_leaves_nothing(folder: str) -> None:
    """Ctrl-C in a callback of PETSc is no failed sample; a folder is not begun with quantities that are none."""
    script = Script()
    given = {"inputs": script.inputs, "scalars": script.scalars, "learn": folder}
    with pytest.raises(ValueError, match="compiled form"):
        attach(script.problem, **given, quantities={"mean": fem.form(script.u * ufl.dx)})
    attached = attach(script.problem, **given, quantities={"mean": script.u * ufl.dx})
    script.solve(0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    script.problem.solver.setMonitor(interrupt)
    with pytest.raises((KeyboardInterrupt, PETSc.Error)):
        script.solve(1)
    attached.learner.study.close()
    COMM.Barrier()
    assert stored(folder).solved == [0] and not stored(folder).failures()


def test_quantities_are_of_one_kind_and_count_once(folder: str) -> None:
    """Of other quantities or equations a folder takes none; a study that is repeated is not counted twice."""

    def study(script: Script, factor: float, **given: object) -> None:
        quantities = {"mean": factor * script.u * ufl.dx} if factor else None
        attached = attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=folder,
                          quantities=quantities, **given)  # fmt: skip
        for number in range(4):
            script.solve(number)
        attached.learner.study.close()
        end_studies()

    for factor in (0.0, 1.0, 1.0):  # first without
        study(Script(), factor)
    COMM.Barrier()
    (found,) = quantity_statistics(stored(folder), counted(stored(folder)))
    of_field = field_statistics(stored(folder), counted(stored(folder)))[-1]
    assert (of_field.mean, of_field.standard_error) == pytest.approx((found.mean, found.standard_error), rel=1e-4)
    exact = [float(COMM.allreduce(fem.assemble_scalar(form))) for form in means(4)]
    assert found.mean == pytest.approx(np.mean(exact), rel=1e-6)
    assert found.standard_error == pytest.approx(np.std(exact, ddof=1) / 2.0, rel=1e-5)
    assert found.name == "mean" or found.name.startswith("mean (of 4 of ")
    with pytest.raises(ValueError, match="has quantities with its solves, got others: give the same"):
        study(Script(), 2.0)
    with pytest.raises(ValueError, match="has quantities with its solves, got none: give the same"):
        study(Script(), 0.0)
    with pytest.raises(ValueError, match="quantity 'mean' must be a form of the unknown of the problem"):
        script = Script()
        attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=f"{folder}2",
               quantities={"mean": script.f * ufl.dx})  # fmt: skip


def test_equal_draws_of_one_run_count_each(folder: str) -> None:
    """A parameter may have two values only; a run that is repeated still counts once."""
    for numbers in ((0, 0, 1), (0, 0, 1, 0)):
        script = Script()
        attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=folder,
               quantities={"mean": script.u * ufl.dx})  # fmt: skip
        for number in numbers:
            script.solve(number)
        end_studies()
    COMM.Barrier()
    (found,) = quantity_statistics(stored(folder), counted(stored(folder)))
    zero, one = (float(COMM.allreduce(fem.assemble_scalar(form))) for form in means(2))
    assert (found.count, found.mean) == (4, pytest.approx(0.75 * zero + 0.25 * one, rel=1e-6))
    assert found.variance == pytest.approx(np.var([zero] * 3 + [one], ddof=1), rel=1e-6)


@pytest.mark.parametrize("ends", [False, True], ids=["in one program", "in the next"])
def test_other_equations_in_a_folder_are_said_once(ends: bool, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """A number of Python in a form changes with the loop, say, and is seen by no guess."""
    with caplog.at_level(logging.WARNING):
        for power in (2, 2, 4, 6):
            script = Script(power=power)
            attach(script.problem, inputs=script.inputs, scalars=script.scalars, learn=folder)
            script.solve(0)
            if ends and power == 2:
                end_studies()
    assert caplog.text.count("has solves of other equations") == (COMM.rank == 0)


def means(count: int) -> Iterator[fem.Form]:
    """Yield the mean of each solve of a plain script, to be assembled before the next."""
    script = Script()
    for number in range(count):
        script.solve(number)
        yield fem.form(script.u * ufl.dx)
