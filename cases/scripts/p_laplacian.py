"""The p-Laplacian for random exponents and sources: from p = 2 in steps to the exponent wanted."""

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem, mesh
from dolfinx.fem.petsc import NonlinearProblem

num_solves = 60
seed = 1
cells = 64

msh = mesh.create_unit_square(MPI.COMM_WORLD, cells, cells)
V = fem.functionspace(msh, ("Lagrange", 2))
u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
f = fem.Function(fem.functionspace(msh, ("Lagrange", 1)), name="source")
p = fem.Constant(msh, 2.0)

msh.topology.create_connectivity(1, 2)
walls = fem.locate_dofs_topological(V, 1, mesh.exterior_facet_indices(msh.topology))
bc = fem.dirichletbc(0.0, walls, V)

slope = 1e-4 + ufl.inner(ufl.grad(u), ufl.grad(u))
residual = slope ** ((p - 2) / 2) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - f * v * ufl.dx
petsc_options = {
    "snes_rtol": 1e-8,
    "snes_linesearch_type": "l2",
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "mumps",
}
problem = NonlinearProblem(residual, u, bcs=[bc], petsc_options_prefix="p_laplacian_", petsc_options=petsc_options)

work = fem.form(f * u * ufl.dx)
rng = np.random.default_rng(seed)


def bump(x):
    """The source: a bump at the place at hand."""
    return 4.0 * np.exp(-((x[0] - centre[0]) ** 2 + (x[1] - centre[1]) ** 2) / width**2)


for number in range(num_solves):
    wanted, centre, width = rng.uniform(2.0, 5.0), rng.uniform(0.2, 0.8, 2), rng.uniform(0.2, 0.4)
    f.interpolate(bump)
    for exponent in np.linspace(2.0, wanted, 1 + int(np.ceil((wanted - 2.0) / 0.5))):
        p.value = exponent
        problem.solve()
        assert problem.solver.getConvergedReason() > 0
    value = msh.comm.allreduce(fem.assemble_scalar(work), op=MPI.SUM)
    if msh.comm.rank == 0:
        print(f"solve {number + 1}: p = {wanted:.3f}, work {value:.12e}")
