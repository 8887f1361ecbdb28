"""Two fluids separate: the Cahn-Hilliard equation, concentration and chemical potential P1, the theta scheme."""

import basix.ufl
import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import default_real_type, fem, mesh
from dolfinx.fem.petsc import NonlinearProblem

seed = 1
num_steps = 20
dt = 5.0e-6
theta = 0.5
lmbda = 1.0e-2  # of the surfaces between the fluids

msh = mesh.create_unit_square(MPI.COMM_WORLD, 32, 32)
P1 = basix.ufl.element("Lagrange", msh.basix_cell(), 1, dtype=default_real_type)
ME = fem.functionspace(msh, basix.ufl.mixed_element([P1, P1]))

q, v = ufl.TestFunctions(ME)
u, u0 = fem.Function(ME, name="state"), fem.Function(ME, name="previous")
c, mu = ufl.split(u)
c0, mu0 = ufl.split(u0)

c = ufl.variable(c)
f = 100 * c**2 * (1 - c) ** 2
mu_mid = (1.0 - theta) * mu0 + theta * mu
F0 = ufl.inner(c - c0, q) * ufl.dx + dt * ufl.inner(ufl.grad(mu_mid), ufl.grad(q)) * ufl.dx
F1 = ufl.inner(mu, v) * ufl.dx - ufl.inner(ufl.diff(f, c), v) * ufl.dx
F1 -= lmbda * ufl.inner(ufl.grad(c), ufl.grad(v)) * ufl.dx

petsc_options = {
    "snes_type": "newtonls",
    "snes_linesearch_type": "none",
    "snes_stol": np.sqrt(np.finfo(default_real_type).eps) * 1e-2,
    "snes_atol": 0,
    "snes_rtol": 0,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "mumps",
}
problem = NonlinearProblem(F0 + F1, u, petsc_options_prefix="demo_ch_", petsc_options=petsc_options)

waves = np.random.default_rng(seed).normal(size=(6, 6)) / 6


def first(x):
    """The concentration at the beginning, a mixture with small waves in it."""
    cosines = [[np.cos(i * np.pi * x[0]) * np.cos(j * np.pi * x[1]) for j in range(6)] for i in range(6)]
    return 0.63 + 0.02 * np.einsum("ij,ijn->n", waves, np.array(cosines))


u.x.array[:] = 0.0
u.sub(0).interpolate(first)
u.x.scatter_forward()

total = fem.form(c * ufl.dx)
energy = fem.form((f + lmbda / 2 * ufl.inner(ufl.grad(c), ufl.grad(c))) * ufl.dx)

t = 0.0
u0.x.array[:] = u.x.array
for _ in range(num_steps):
    t += dt
    problem.solve()
    assert problem.solver.getConvergedReason() > 0
    u0.x.array[:] = u.x.array
    values = [msh.comm.allreduce(fem.assemble_scalar(form), op=MPI.SUM) for form in (total, energy)]
    if msh.comm.rank == 0:
        print(f"t = {t:.1e}: amount {values[0]:.16e}, energy {values[1]:.16e}")
