"""A study in a script of your own: many solves of one problem, each from what the ones before have taught."""

import numpy as np
import ufl
from mpi4py import MPI  # before dolfinx
from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem
from dolfinx.mesh import create_unit_square

from lrsa_coupled import attach

NUM_SOLVES, CELLS = 60, 64

# The problem, as you would write it: heat conduction with a hot wall and a source that moves.
mesh = create_unit_square(MPI.COMM_WORLD, CELLS, CELLS)
space = fem.functionspace(mesh, ("P", 2))
u, v, x = fem.Function(space, name="temperature"), ufl.TestFunction(space), ufl.SpatialCoordinate(mesh)
hot, strength, centre = fem.Constant(mesh, 1.0), fem.Constant(mesh, 1.0), fem.Constant(mesh, (0.5, 0.5))
source = strength * ufl.exp(-20.0 * ufl.inner(x - centre, x - centre))
residual = (ufl.exp(0.5 * u) * ufl.inner(ufl.grad(u), ufl.grad(v)) - source * v + 10 * (u - hot) * v) * ufl.dx
wall = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0))
problem = NonlinearProblem(
    residual,
    u,
    bcs=[fem.dirichletbc(0.0, wall, space)],
    petsc_options_prefix="heat_",
    petsc_options={"snes_rtol": 1e-8, "ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"},
)

# The one line that is added. What changes from solve to solve is named: Functions or UFL expressions are inputs,
# Constants are scalars. Solutions and models are kept in the folder; a second run goes on with them.
attached = attach(problem, inputs={"source": source}, scalars={"hot": hot}, learn="data")

rng = np.random.default_rng(1)
mean = fem.form(u * ufl.dx)
for number in range(NUM_SOLVES):
    hot.value, strength.value, centre.value = rng.uniform(0.5, 2.0), rng.uniform(50.0, 500.0), rng.uniform(0.2, 0.8, 2)
    u.x.array[:] = 0.0  # your own initial guess, which is used where nothing better is known
    problem.solve()
    value = mesh.comm.allreduce(fem.assemble_scalar(mean))
    if mesh.comm.rank == 0:
        print(f"solve {number + 1}: {problem.solver.getIterationNumber()} iterations, mean temperature {value:.6f}")

if mesh.comm.rank == 0:
    print(attached.summary())  # what each guess saved, what learning cost
