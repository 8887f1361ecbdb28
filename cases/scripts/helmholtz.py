"""A plane wave meets a soft lens: the Helmholtz equation with an impedance boundary; needs complex PETSc."""

import sys

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem
from petsc4py import PETSc

seed = 1
num_waves = 10
k0 = 3 * np.pi

if not np.issubdtype(PETSc.ScalarType, np.complexfloating):
    sys.exit("This script needs PETSc with complex numbers.")

msh = mesh.create_unit_square(MPI.COMM_WORLD, 24, 24)
V = fem.functionspace(msh, ("Lagrange", 2))
u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
incident, lens, uh = fem.Function(V, name="incident"), fem.Function(V, name="lens"), fem.Function(V, name="total")

n = ufl.FacetNormal(msh)
a = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - k0**2 * ufl.inner((1 + lens) * u, v) * ufl.dx
a -= 1j * k0 * ufl.inner(u, v) * ufl.ds
L = ufl.inner(ufl.dot(ufl.grad(incident), n) - 1j * k0 * incident, v) * ufl.ds

problem = LinearProblem(
    a,
    L,
    u=uh,
    petsc_options_prefix="helmholtz_",
    petsc_options={"ksp_type": "gmres", "ksp_gmres_restart": 100, "ksp_rtol": 1e-8, "ksp_max_it": 2000},
)

rng = np.random.default_rng(seed)
for number in range(num_waves):
    phi, cx, cy = rng.uniform((-0.5, 0.3, 0.3), (0.5, 0.7, 0.7))
    incident.interpolate(lambda x, d=phi: np.exp(1j * k0 * (np.cos(d) * x[0] + np.sin(d) * x[1])))
    lens.interpolate(lambda x, cx=cx, cy=cy: 0.5 * np.exp(-40 * ((x[0] - cx) ** 2 + (x[1] - cy) ** 2)))
    problem.solve()
    assert problem.solver.getConvergedReason() > 0
    scattered = uh - incident
    forms = [fem.form(ufl.inner(w, w) * ufl.dx) for w in (uh, scattered)]
    total, other = (msh.comm.allreduce(fem.assemble_scalar(form).real, op=MPI.SUM) for form in forms)
    if msh.comm.rank == 0:
        print(f"wave {number}: total {np.sqrt(total):.16e}, scattered {np.sqrt(other):.16e}")
