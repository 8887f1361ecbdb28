"""The hyperelasticity demo, many times: a clamped neo-Hookean bar under random tractions at its right end."""

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import default_scalar_type, fem, mesh
from dolfinx.fem.petsc import NonlinearProblem

num_solves = 60
seed = 1

domain = mesh.create_box(MPI.COMM_WORLD, [[0.0, 0.0, 0.0], [4.0, 1.0, 1.0]], [16, 4, 4], mesh.CellType.hexahedron)
V = fem.functionspace(domain, ("Lagrange", 2, (3,)))
u, v = fem.Function(V, name="displacement"), ufl.TestFunction(V)

left = mesh.locate_entities_boundary(domain, 2, lambda x: np.isclose(x[0], 0.0))
right = mesh.locate_entities_boundary(domain, 2, lambda x: np.isclose(x[0], 4.0))
clamped = fem.dirichletbc(np.zeros(3, dtype=default_scalar_type), fem.locate_dofs_topological(V, 2, left), V)
tags = mesh.meshtags(domain, 2, np.sort(right), np.full(len(right), 1, dtype=np.int32))
traction = fem.Constant(domain, default_scalar_type((0.0, 0.0, 0.0)))

E, nu = 1.0, 0.3
mu, lmbda = E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))
F = ufl.variable(ufl.Identity(3) + ufl.grad(u))
J = ufl.det(F)
psi = mu / 2 * (ufl.inner(F, F) - 3) - mu * ufl.ln(J) + lmbda / 2 * ufl.ln(J) ** 2
dx = ufl.Measure("dx", domain=domain, metadata={"quadrature_degree": 4})
ds = ufl.Measure("ds", domain=domain, subdomain_data=tags, metadata={"quadrature_degree": 4})
residual = ufl.inner(ufl.diff(psi, F), ufl.grad(v)) * dx - ufl.inner(traction, v) * ds(1)

petsc_options = {
    "snes_rtol": 1e-8,
    "snes_linesearch_type": "bt",
    "snes_max_it": 100,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "mumps",
}
problem = NonlinearProblem(residual, u, bcs=[clamped], petsc_options_prefix="tractions_", petsc_options=petsc_options)

energy = fem.form(psi * dx)
rng = np.random.default_rng(seed)

for number in range(num_solves):
    traction.value = rng.uniform(-1.0, 1.0, 3) * (0.004, 0.003, 0.003)
    u.x.array[:] = 0.0
    problem.solve()
    assert problem.solver.getConvergedReason() > 0
    value = domain.comm.allreduce(fem.assemble_scalar(energy), op=MPI.SUM)
    if domain.comm.rank == 0:
        print(f"solve {number + 1}: energy {value:.12e}")
