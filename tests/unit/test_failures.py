"""What fails a solve for a numerical reason, and what is a mistake."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

pytest.importorskip("mpi4py.MPI", reason="needs MPI")
pytest.importorskip("petsc4py", reason="needs PETSc")

from mpi4py import MPI
from petsc4py import PETSc

from lrsa_coupled.coupling.failures import is_numerical, reason_of
from lrsa_coupled.interfaces import NumericalError


def caught(matrix: list[list[float]], **options: str) -> PETSc.Error:
    """The error of a direct solve that is to raise what goes wrong."""
    a = PETSc.Mat().createAIJ(len(matrix), comm=MPI.COMM_SELF)
    a.setUp()
    a.setValues(range(len(matrix)), range(len(matrix)), np.array(matrix))
    a.assemble()
    ksp = PETSc.KSP().create(MPI.COMM_SELF)
    ksp.setOperators(a)
    ksp.setErrorIfNotConverged(True)
    for name, value in {"ksp_type": "preonly", "pc_type": "lu", **options}.items():
        PETSc.Options()[name] = value
    try:
        ksp.setFromOptions()
        x, b = a.createVecs()
        b.set(1.0)
        ksp.solve(b, x)
    except PETSc.Error as error:
        return error
    finally:
        for name in ("ksp_type", "pc_type", *options):
            PETSc.Options().delValue(name)
    pytest.fail("the solve has not failed")


def of_callback(error: BaseException) -> PETSc.Error:
    """The error of PETSc for one in a callback."""

    def function(snes: PETSc.SNES, x: PETSc.Vec, f: PETSc.Vec) -> None:
        raise error

    snes, vector = PETSc.SNES().create(MPI.COMM_SELF), PETSc.Vec().createSeq(2)
    snes.setFunction(function, vector.duplicate())
    with pytest.raises(PETSc.Error) as found:
        snes.solve(None, vector)
    return found.value


SINGULAR = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize("options", [{}, {"pc_factor_mat_solver_type": "mumps"}, {"pc_type": "cholesky"}])
def test_a_zero_pivot_is_numerical(options: dict[str, str]) -> None:
    error = caught(SINGULAR, **options)
    assert is_numerical(error)
    assert reason_of(error) == f"PETSc error {error.ierr}"


def test_a_solver_that_does_not_converge_is_numerical() -> None:
    assert is_numerical(caught([[1.0, 2.0], [3.0, 4.0]], ksp_type="richardson", pc_type="none"))
    assert is_numerical(NumericalError("the mesher gave up"))


def test_an_unknown_solver_is_a_mistake() -> None:
    assert not is_numerical(caught([[1.0]], pc_factor_mat_solver_type="no_such_package"))
    assert not is_numerical(caught([[1.0]], ksp_type="cgg"))


@pytest.mark.parametrize(
    "error", [NameError("comm"), ArithmeticError(), FloatingPointError(), MemoryError(), ValueError("not finite"),
              KeyboardInterrupt(), SystemExit(3), subprocess.CalledProcessError(1, "cc"), OSError(28, "full")]
)  # fmt: skip
def test_an_exception_of_python_is_a_mistake_inside_a_callback_too(error: BaseException) -> None:
    assert not is_numerical(error)
    found = of_callback(error)
    assert not is_numerical(found)
    with pytest.raises(type(error)) as raised:
        reason_of(found)
    assert raised.value is error


def test_a_numerical_error_in_a_callback_is_numerical() -> None:
    assert is_numerical(of_callback(PETSc.Error(71)))
    assert is_numerical(of_callback(of_callback(NumericalError("no root"))))
    cause = ZeroDivisionError()
    error = NameError("x")
    error.__cause__ = cause
    with pytest.raises(NameError) as raised:
        reason_of(of_callback(of_callback(error)))
    assert raised.value.__cause__ is cause
