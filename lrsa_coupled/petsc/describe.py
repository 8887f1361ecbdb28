"""What the preconditioners need to know of a matrix beyond its numbers: nodes, coefficients, a coarse mesh.

The program attaches it to the matrix once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from dolfinx.fem import DirichletBC, Function, FunctionSpace
from petsc4py import PETSc

from lrsa_coupled.coupling.background import BackgroundGrid
from lrsa_coupled.coupling.inputs import Input
from lrsa_coupled.coupling.scalars import PARTS
from lrsa_coupled.coupling.script import Scalar, Script, script_for
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.interfaces import Features, Unknown
from lrsa_coupled.mpi import collective_errors
from lrsa_coupled.schema import Field

if TYPE_CHECKING:
    from lrsa_coupled.coupling.predictor import Predictor

KEY = "lrsa_description"


def describe(
    matrix: PETSc.Mat,
    space: FunctionSpace,
    *,
    bcs: Sequence[DirichletBC] = (),
    inputs: Mapping[str, Input] | None = None,
    scalars: Mapping[str, Scalar] | None = None,
    prolongation: PETSc.Mat | None = None,
) -> None:
    """Attach to a matrix what an operator needs to know of it; the values at the moment of a set-up count. Collective.

    Args:
        matrix: System or preconditioning matrix of a KSP.
        space: Scalar Lagrange space of its rows.
        bcs: Dirichlet conditions; corrections are zero there.
        inputs: Nodal inputs by name, all that the operators to come need; an operator reads its own.
        scalars: The operator's scalars by name.
        prolongation: From the free degrees of freedom of a coarse mesh, for ``-pc_lrsa_basis coarse``.

    Raises:
        ValueError: If the space is another than scalar Lagrange, or not that of the rows; on all ranks.
    """
    with collective_errors(space.mesh.comm):
        rows, owned = matrix.getLocalSize()[0], space.dofmap.index_map.size_local * space.dofmap.index_map_bs
        if rows != owned:
            raise ValueError(
                f"expected a matrix with the rows of the space, {owned} on rank {matrix.comm.rank}, got {rows}"
            )
    matrix.setAttr(KEY, Description(space, bcs, inputs=inputs or {}, scalars=scalars or {}, prolongation=prolongation))


def description_of(pc: PETSc.PC) -> Description:
    """Return what was attached to a matrix of the preconditioner; ValueError when there is nothing."""
    found = [item for matrix in pc.getOperators() if (item := matrix.getAttr(KEY)) is not None]
    if not found:
        raise ValueError(
            "an operator needs to know nodes and coefficients of the matrix: call lrsa_coupled.describe(matrix, ...)"
        )
    return found[0]


@final
class Description:
    """See ``describe``; ``nodes`` are the rows of the matrix."""

    def __init__(self, space: FunctionSpace, bcs: Sequence[DirichletBC], *, inputs: Mapping[str, Input],
                 scalars: Mapping[str, Scalar], prolongation: PETSc.Mat | None) -> None:  # fmt: skip
        self._unknown = Unknown(mesh=space.mesh, solution=Function(space), bcs=list(bcs), node_space=space)
        self.nodes = NodeSet(self._unknown, (Field("correction", PARTS),))
        self.prolongation = prolongation
        self._inputs, self._scalars = dict(inputs), dict(scalars)
        self._grids: dict[int, BackgroundGrid] = {}
        self._scripts: dict[tuple[tuple[Field, ...], tuple[str, ...]], Script] = {}

    @property
    def fixed(self) -> npt.NDArray[np.bool_]:
        """Whether a Dirichlet condition holds at the owned nodes ``(num_owned,)``. Collective: no."""
        return self.nodes.constrained[:, 0]

    def arrays(self, predictor: Predictor, nodal: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        """Return what the operator is evaluated on: points, inputs, and masses if it needs them. Collective."""
        return [self.nodes.points, nodal, *([self.nodes.mass] if predictor.model.config.needs_mass else [])]

    def grid(self, cells: int) -> BackgroundGrid:
        """Return the background grid with this many cells along the longest side. Collective at the first use."""
        if cells not in self._grids:
            self._grids[cells] = BackgroundGrid(
                self.nodes.points, self.nodes.mass, cells, comm=self._unknown.mesh.comm, fixed=self.fixed
            )
        return self._grids[cells]

    def features(self, predictor: Predictor, *, without: str | None = None) -> Features:
        """Evaluate an operator's inputs, but for one, and scalars; ValueError when one is missing. Collective."""
        fields = tuple(item for item in predictor.card.schema.inputs if item.name != without)
        key = fields, predictor.card.schema.scalars
        if key not in self._scripts:
            known = {item.name: self._inputs[item.name] for item in fields if item.name in self._inputs}
            self._scripts[key] = script_for(
                predictor.card, fields, known, scalars=self._scalars, node_space=self.nodes.space
            )
        return self._scripts[key].features(self._unknown)
