"""Poisson's equation for a number of sources, by a direct solver."""

import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import default_scalar_type, fem, mesh
from dolfinx.fem.petsc import LinearProblem

seed = 1
num_sources = 10

msh = mesh.create_rectangle(MPI.COMM_WORLD, ((0.0, 0.0), (2.0, 1.0)), (48, 24), mesh.CellType.triangle)
V = fem.functionspace(msh, ("Lagrange", 2))

facets = mesh.locate_entities_boundary(msh, msh.topology.dim - 1, lambda x: np.isclose(x[0] * (2.0 - x[0]), 0.0))
dofs = fem.locate_dofs_topological(V, msh.topology.dim - 1, facets)
bc = fem.dirichletbc(value=default_scalar_type(0), dofs=dofs, V=V)

u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
f = fem.Function(V, name="source")
g = fem.Constant(msh, default_scalar_type(0.0))
a = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
L = ufl.inner(f, v) * ufl.dx + ufl.inner(g, v) * ufl.ds

problem = LinearProblem(
    a, L, bcs=[bc], petsc_options_prefix="demo_poisson_", petsc_options={"ksp_type": "preonly", "pc_type": "lu"}
)

rng = np.random.default_rng(seed)
for number in range(num_sources):
    cx, cy = rng.uniform((0.2, 0.2), (1.8, 0.8))
    f.interpolate(lambda x, cx=cx, cy=cy: 10 * np.exp(-50 * ((x[0] - cx) ** 2 + (x[1] - cy) ** 2)))
    g.value = rng.uniform(-1.0, 1.0)
    uh = problem.solve()
    assert problem.solver.getConvergedReason() > 0
    square = msh.comm.allreduce(fem.assemble_scalar(fem.form(ufl.inner(uh, uh) * ufl.dx)), op=MPI.SUM)
    work = msh.comm.allreduce(fem.assemble_scalar(fem.form(ufl.inner(f, uh) * ufl.dx)), op=MPI.SUM)
    if msh.comm.rank == 0:
        print(f"source {number}: norm {np.sqrt(np.real(square)):.16e}, work {np.real(work):.16e}")
