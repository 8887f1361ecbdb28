"""A small problem on the unit square with a description, and operators for it, for the learned preconditioners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import ufl
from mpi4py import MPI
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import create_unit_square
from petsc4py import PETSc

from lrsa_coupled.config import LrsaConfig, TrainingConfig
from lrsa_coupled.mpi import share
from lrsa_coupled.schema import Field, Schema
from lrsa_coupled.solvers.interpolation import boundary_dofs
from lrsa_coupled.training import checkpoint

COMM = MPI.COMM_WORLD
SHIFT = 130.0
"""Of A = P - SHIFT B; some ten modes are lower."""


class Waves:
    """-Laplace u - SHIFT n u with n = 1 + x / 5, u = 0 on the boundary: P, A and what an operator sees."""

    def __init__(self, comm: MPI.Comm = COMM, cells: int = 24) -> None:
        self.space = _space(comm, cells)
        mesh = self.space.mesh
        self.medium = fem.Function(self.space)
        self.medium.interpolate(lambda x: 1.0 + 0.2 * x[0])
        self.bc = fem.dirichletbc(0.0, boundary_dofs(self.space), self.space)
        trial, test = ufl.TrialFunction(self.space), ufl.TestFunction(self.space)
        stiffness = ufl.inner(ufl.grad(trial), ufl.grad(test)) * ufl.dx
        self.mass_form = self.medium * trial * test * ufl.dx
        self.matrix, self.stiffness = (
            self._assembled(form) for form in (stiffness - SHIFT * self.mass_form, stiffness)
        )
        self.inputs = {"medium": self.medium}
        self.right = self.matrix.createVecLeft()
        points = self.space.tabulate_dof_coordinates()[: self.right.getLocalSize()]
        self.right.array[:] = np.sin(7 * points[:, 0]) * np.cos(5 * points[:, 1] + 1) / cells**2
        self.right.array[self.fixed] = 0.0
        assert mesh.topology.dim == 2

    @property
    def fixed(self) -> np.ndarray:
        """Owned rows on the boundary."""
        rows = boundary_dofs(self.space)
        return rows[rows < self.space.dofmap.index_map.size_local]

    def _assembled(self, form: ufl.Form) -> PETSc.Mat:
        matrix = assemble_matrix(fem.form(form), bcs=[self.bc])
        matrix.assemble()
        return matrix


def operator(
    folder: Path,
    outputs: Field,
    *,
    inputs: tuple[str | Field, ...] = ("medium",),
    scale: float = 1.0,
    case: str = "waves",
    dim: int = 2,
) -> Path:
    """Save an operator with random weights, the same on all ranks, whose outputs are of the size ``scale``."""

    def save() -> None:
        torch.manual_seed(0)
        config = LrsaConfig(width=32, num_blocks=1, num_heads=2, num_latents=8, num_frequencies=2, mass_weighted=True)
        fields = tuple(Field(item) if isinstance(item, str) else item for item in inputs)
        schema = Schema(case, dim, fields, (), (outputs,))
        card = checkpoint.ModelCard(schema, 24, config, TrainingConfig(), checkpoint.DataInfo(10, 0), {})
        model = checkpoint.make_model(config, schema)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
        points, columns = torch.rand(200, dim), torch.randn(200, schema.num_inputs)
        model.normaliser.fit(
            points, columns, scalars_SG=torch.zeros(200, 0), outputs_TK=scale * torch.randn(200, outputs.components)
        )
        checkpoint.save(folder, model, card)

    share(COMM, save)
    return folder


def _space(comm: MPI.Comm, cells: int) -> fem.FunctionSpace:
    return fem.functionspace(create_unit_square(comm, cells, cells), ("P", 1))
