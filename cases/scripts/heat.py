"""Stationary heat conduction, many times: the conductivity exp(k0 + beta u) has a random field k0 and a random beta."""

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem, mesh
from dolfinx.fem.petsc import NonlinearProblem

num_solves = 60
seed = 1
cells = 96

msh = mesh.create_unit_square(MPI.COMM_WORLD, cells, cells)
V = fem.functionspace(msh, ("Lagrange", 2))
u, v = fem.Function(V, name="temperature"), ufl.TestFunction(V)
k0 = fem.Function(fem.functionspace(msh, ("Lagrange", 1)), name="k0")
beta = fem.Constant(msh, 0.0)

msh.topology.create_connectivity(1, 2)
walls = fem.locate_dofs_topological(V, 1, mesh.exterior_facet_indices(msh.topology))
bc = fem.dirichletbc(0.0, walls, V)

residual = ufl.exp(k0 + beta * u) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - 30.0 * v * ufl.dx
petsc_options = {
    "snes_rtol": 1e-9,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "mumps",
}
problem = NonlinearProblem(residual, u, bcs=[bc], petsc_options_prefix="heat_", petsc_options=petsc_options)

mean = fem.form(u * ufl.dx)
rng = np.random.default_rng(seed)
modes = ((0, 1), (1, 0), (1, 1), (2, 0))


def field(x):
    """The random field: cosines with the weights at hand."""
    return sum(
        w * np.cos(i * np.pi * x[0]) * np.cos(j * np.pi * x[1]) for w, (i, j) in zip(weights, modes, strict=True)
    )


for number in range(num_solves):
    weights, beta.value = rng.normal(0.0, 0.5, len(modes)), rng.uniform(0.2, 1.5)
    k0.interpolate(field)
    u.x.array[:] = 0.0
    problem.solve()
    assert problem.solver.getConvergedReason() > 0
    value = msh.comm.allreduce(fem.assemble_scalar(mean), op=MPI.SUM)
    if msh.comm.rank == 0:
        print(f"solve {number + 1}: mean temperature {value:.12e}")
