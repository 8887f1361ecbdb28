"""Flow round a cylinder in a channel: Navier-Stokes, P2 and P1, an incremental pressure correction scheme."""

import gmsh
import numpy as np
import ufl
from mpi4py import MPI
from dolfinx import default_scalar_type, fem
from dolfinx.fem.petsc import LinearProblem
from dolfinx.io import gmsh as gmshio

peak = 1.0  # velocity in the middle of the inflow
num_steps = 25
length, height, centre, radius = 2.2, 0.41, (0.2, 0.2), 0.05

gmsh.initialize()
gmsh.option.setNumber("General.Terminal", 0)
if MPI.COMM_WORLD.rank == 0:
    channel = gmsh.model.occ.addRectangle(0, 0, 0, length, height)
    cylinder = gmsh.model.occ.addDisk(*centre, 0, radius, radius)
    gmsh.model.occ.cut([(2, channel)], [(2, cylinder)])
    gmsh.model.occ.synchronize()
    gmsh.model.addPhysicalGroup(2, [channel], 1)
    markers = {"inlet": [], "outlet": [], "walls": [], "obstacle": []}
    for _, line in gmsh.model.getBoundary([(2, channel)], oriented=False):
        x, y, _ = gmsh.model.occ.getCenterOfMass(1, line)
        where = {x < 1e-6: "inlet", x > length - 1e-6: "outlet", y < 1e-6 or y > height - 1e-6: "walls"}
        markers[where.get(True, "obstacle")].append(line)
    for tag, lines in enumerate(markers.values(), start=2):
        gmsh.model.addPhysicalGroup(1, lines, tag)
    gmsh.model.mesh.field.add("Distance", 1)
    gmsh.model.mesh.field.setNumbers(1, "CurvesList", markers["obstacle"])
    gmsh.model.mesh.field.add("Threshold", 2)
    for name, value in {"InField": 1, "SizeMin": 0.015, "SizeMax": 0.06, "DistMin": 0.05, "DistMax": 0.4}.items():
        gmsh.model.mesh.field.setNumber(2, name, value)
    gmsh.model.mesh.field.setAsBackgroundMesh(2)
    gmsh.model.mesh.generate(2)
mesh_data = gmshio.model_to_mesh(gmsh.model, MPI.COMM_WORLD, 0, gdim=2)
gmsh.finalize()
mesh, facets = mesh_data.mesh, mesh_data.facet_tags
fdim = mesh.topology.dim - 1

V = fem.functionspace(mesh, ("Lagrange", 2, (2,)))
Q = fem.functionspace(mesh, ("Lagrange", 1))
inflow = fem.Function(V)
inflow.interpolate(lambda x: np.stack([4 * peak * x[1] * (height - x[1]) / height**2, 0 * x[1]]))
rest = np.zeros(2, dtype=default_scalar_type)
bcu = [fem.dirichletbc(inflow, fem.locate_dofs_topological(V, fdim, facets.find(2)))]
bcu += [fem.dirichletbc(rest, fem.locate_dofs_topological(V, fdim, facets.find(tag)), V) for tag in (4, 5)]
bcp = [fem.dirichletbc(default_scalar_type(0), fem.locate_dofs_topological(Q, fdim, facets.find(3)), Q)]

k = fem.Constant(mesh, default_scalar_type(0.02))
nu = fem.Constant(mesh, default_scalar_type(0.001))
u, v, p, q = ufl.TrialFunction(V), ufl.TestFunction(V), ufl.TrialFunction(Q), ufl.TestFunction(Q)
u_s, u_n, u_n1 = fem.Function(V, name="tentative"), fem.Function(V, name="velocity"), fem.Function(V)
p_n, phi = fem.Function(Q, name="pressure"), fem.Function(Q, name="increment")

convected = ufl.dot(1.5 * u_n - 0.5 * u_n1, ufl.nabla_grad(0.5 * (u + u_n)))
F1 = ufl.inner(u - u_n, v) / k * ufl.dx + ufl.inner(convected, v) * ufl.dx - ufl.inner(p_n, ufl.div(v)) * ufl.dx
F1 += nu / 2 * ufl.inner(ufl.grad(u + u_n), ufl.grad(v)) * ufl.dx
problem1 = LinearProblem(
    ufl.lhs(F1),
    ufl.rhs(F1),
    bcs=bcu,
    u=u_s,
    petsc_options_prefix="velocity_",
    petsc_options={"ksp_type": "bcgs", "pc_type": "jacobi", "ksp_rtol": 1e-8},
)
problem2 = LinearProblem(
    ufl.inner(ufl.grad(p), ufl.grad(q)) * ufl.dx,
    -1 / k * ufl.inner(ufl.div(u_s), q) * ufl.dx,
    bcs=bcp,
    u=phi,
    petsc_options_prefix="pressure_",
    petsc_options={"ksp_type": "cg", "pc_type": "gamg", "ksp_rtol": 1e-8},
)
problem3 = LinearProblem(
    ufl.inner(u, v) * ufl.dx,
    ufl.inner(u_s, v) * ufl.dx - k * ufl.inner(ufl.grad(phi), v) * ufl.dx,
    bcs=bcu,
    petsc_options_prefix="projection_",
    petsc_options={"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-8},
)

kinetic = fem.form(0.5 * ufl.inner(u_n, u_n) * ufl.dx)
ds = ufl.Measure("ds", domain=mesh, subdomain_data=facets)
n = -ufl.FacetNormal(mesh)  # out of the cylinder
shear = nu * ufl.inner(ufl.dot(ufl.nabla_grad(u_n), n), ufl.as_vector((n[1], -n[0])))
drag = fem.form(2 / 0.1 * (shear * n[1] - p_n * n[0]) * ds(5))

t = 0.0
for _ in range(num_steps):
    t += float(k.value)
    problem1.solve()
    problem2.solve()
    u_new = problem3.solve()
    p_n.x.array[:] += phi.x.array
    u_n1.x.array[:] = u_n.x.array
    u_n.x.array[:] = u_new.x.array
    values = [mesh.comm.allreduce(fem.assemble_scalar(form), op=MPI.SUM) for form in (kinetic, drag)]
    if mesh.comm.rank == 0:
        print(f"t = {t:.2f}: energy {values[0]:.16e}, drag {values[1]:.16e}")
