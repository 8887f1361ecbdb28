"""A neo-Hookean bar, clamped at its left end, whose right end is turned step by step; gravity acts on all of it."""

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import default_scalar_type, fem, mesh
from dolfinx.fem.petsc import NonlinearProblem

angles = np.linspace(0.0, 100.0, 9)[1:]  # degrees

domain = mesh.create_box(MPI.COMM_WORLD, [[0.0, 0.0, 0.0], [2.0, 1.0, 1.0]], [6, 3, 3], mesh.CellType.hexahedron)
V = fem.functionspace(domain, ("Lagrange", 2, (domain.geometry.dim,)))
u, v = fem.Function(V, name="displacement"), ufl.TestFunction(V)

left = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0.0))
right = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 2.0))
turned = fem.Function(V)
clamped = np.zeros(domain.geometry.dim, dtype=default_scalar_type)
bcs = [fem.dirichletbc(clamped, left, V), fem.dirichletbc(turned, right)]

angle = fem.Constant(domain, default_scalar_type(0.0))
gravity = fem.Constant(domain, default_scalar_type((0.0, 0.0, -0.05)))
E, nu = 1.0, 0.3
mu, lmbda = E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))

F = ufl.variable(ufl.Identity(domain.geometry.dim) + ufl.grad(u))
J = ufl.det(F)
psi = mu / 2 * (ufl.inner(F, F) - 3) - mu * ufl.ln(J) + lmbda / 2 * ufl.ln(J) ** 2
P = ufl.diff(psi, F)
dx = ufl.Measure("dx", domain=domain, metadata={"quadrature_degree": 4})
residual = ufl.inner(P, ufl.grad(v)) * dx - ufl.inner(gravity, v) * dx

petsc_options = {
    "snes_type": "newtonls",
    "snes_linesearch_type": "none",
    "snes_atol": 1e-9,
    "snes_rtol": 1e-9,
    "snes_error_if_not_converged": True,
    "ksp_error_if_not_converged": True,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "mumps",
}
problem = NonlinearProblem(residual, u, bcs=bcs, petsc_options_prefix="twist_", petsc_options=petsc_options)

energy = fem.form(psi * dx)
stretch = fem.form(ufl.inner(u, u) * dx)


def rotation(x):
    """The displacement of a cross-section that is turned about the axis of the bar."""
    phi, y, z = np.deg2rad(angle.value), x[1] - 0.5, x[2] - 0.5
    return np.stack([0 * y, (np.cos(phi) - 1) * y - np.sin(phi) * z, np.sin(phi) * y + (np.cos(phi) - 1) * z])


for degrees in angles:
    angle.value = degrees
    turned.interpolate(rotation)
    problem.solve()
    assert problem.solver.getConvergedReason() > 0
    values = [domain.comm.allreduce(fem.assemble_scalar(form), op=MPI.SUM) for form in (energy, stretch)]
    if domain.comm.rank == 0:
        print(f"{degrees:6.1f} degrees: energy {values[0]:.16e}, displacement {np.sqrt(values[1]):.16e}")
