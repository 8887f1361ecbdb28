"""Every README: Python blocks run, commands parse with the real parsers, cheap ones run.

A comment before a block, ``<!-- test: ... -->``, changes what is done with it:

* ``setup NAME``: what the text takes as given, a function ``setup_NAME`` below, is made first;
* ``file PATH``: the block is the file of this name;
* ``run VERB EXTRA | VERB EXTRA``: the commands of these verbs are run, with further arguments that make them cheap;
* ``skip REASON``: the block needs what a test does not have.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lrsa_coupled import cli, config, load_case
from lrsa_coupled.cli import experiment
from lrsa_coupled.cli._startup import case_config
from tests.helpers import ROOT, needs_dolfinx

READMES = sorted(
    p for pattern in ("*.md", "cases/**/*.md", "lrsa_coupled/**/*.md", "solvers/*.md") for p in ROOT.glob(pattern)
)
FENCE = re.compile(
    r"(?:<!-- test: (?P<mark>.*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"(?<!`)`(lrsa-coupled [^`]+|mpirun [^`]*lrsa-coupled [^`]+)`(?!`)", re.DOTALL)
PLACEHOLDERS = {"R": "8", "N": "8", "TOLERANCE": "1e-6", "CASE": "cavity", "VERB": "bench"}
LAUNCHER = re.compile(r"^(?:\w+=\S+ )*(?:mpirun -n \w+ |srun |torchrun .*--no-python )?(?=lrsa-coupled )")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``mark`` is the word of its comment, ``arguments`` the rest of it."""

    kind: str
    text: str
    mark: str
    arguments: str


def blocks(path: Path) -> Iterator[Block]:
    """All fenced blocks of a file."""
    for found in FENCE.finditer(path.read_text(encoding="utf-8")):
        mark, _, arguments = (found["mark"] or "").partition(" ")
        yield Block(found["kind"], found["text"], mark, arguments)


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of the calls of ``lrsa-coupled`` in a shell script, placeholders replaced."""
    for line in text.replace("\\\n", " ").splitlines():
        if LAUNCHER.match(line.strip()):
            words = shlex.split(LAUNCHER.sub("", line.strip()), comments=True)
            pairs = [word.rpartition("=") for word in words[1:]]
            yield [name + sign + PLACEHOLDERS.get(value, value) for name, sign, value in pairs]


def check(arguments: list[str], case: str | None) -> None:
    """Parse a command and resolve its settings: of its case, or of ``case`` where it names none."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    args = cli.make_parser().parse_args(arguments[:place])
    args = experiment.parse(args) if args.verb == "experiment" else args
    case = vars(args).get("case", case)
    if case is None or case.endswith(".py"):
        config.load(config.Config(), assignments=args.set)
    else:
        load_case(case, case_config(args, case).options)


@needs_dolfinx
@pytest.mark.parametrize("path", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_parse(path: Path) -> None:
    inline = [" ".join(found.group(1).split()) for found in INLINE.finditer(path.read_text(encoding="utf-8"))]
    inline = [text for text in inline if not any(part in text for part in ("...", "NAME", "[", "--help"))]
    case = path.parent.name if (path.parent / "case.py").exists() else None
    for text in [*(block.text for block in blocks(path) if block.kind == "sh"), *inline]:
        for arguments in commands(text):
            try:
                check(arguments, case)
            except ValueError as error:
                pytest.fail(f"{' '.join(arguments)}: {error}")


WITH_PYTHON = [path for path in READMES if any(block.kind == "python" for block in blocks(path))]


@needs_dolfinx
@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_snippets_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(path):
        if block.mark == "setup":
            names |= globals()[f"setup_{block.arguments}"]()
        if block.mark == "file":
            target = tmp_path / block.arguments
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.mark == "run":
            extra = dict(part.strip().partition(" ")[::2] for part in block.arguments.split("|"))
            for arguments in commands(block.text):
                if arguments[0] in extra:
                    assert cli.main([*arguments, *shlex.split(extra[arguments[0]]), "--quiet"]) == 0, arguments
        elif block.kind == "python" and block.mark != "skip":
            exec(compile(block.text, str(path), "exec"), names)


def setup_script() -> dict[str, Any]:
    """A script that solves nonlinear heat conduction, and parameters to loop over."""
    import ufl
    from mpi4py import MPI
    from dolfinx import fem, mesh
    from dolfinx.fem.petsc import NonlinearProblem

    domain = mesh.create_unit_square(MPI.COMM_WORLD, 6, 6)
    space = fem.functionspace(domain, ("P", 2))
    u, v, f = fem.Function(space, name="u"), ufl.TestFunction(space), fem.Function(space)
    hot = fem.Constant(domain, 1.0)
    residual = ((1 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) - f * v + (u - hot) * v) * ufl.dx
    dofs = fem.locate_dofs_geometrical(space, lambda x: x[0] < 1e-8)
    bcs = [fem.dirichletbc(0.0, dofs, space)]
    problem = NonlinearProblem(residual, u, bcs=bcs, petsc_options_prefix="heat_", petsc_options={"snes_rtol": 1e-8})

    def set_parameters(value: float) -> None:
        f.interpolate(lambda x: 10 * value * x[0])
        hot.value = value

    set_parameters(1.0)
    return {"problem": problem, "residual": residual, "u": u, "bcs": bcs, "f": f, "hot": hot,
            "set_parameters": set_parameters,
            "training_parameters": (0.5, 1.0, 1.5, 2.0), "new_parameters": (0.7, 1.2, 1.7)}  # fmt: skip


def setup_model() -> dict[str, Any]:
    """The same, and a folder ``model`` with an operator trained on its solves."""
    from lrsa_coupled import Collector

    names = setup_script()
    inputs, scalars = {"source": names["f"]}, {"hot": names["hot"]}
    with Collector("data", names["problem"], name="heat", inputs=inputs, scalars=scalars) as samples:
        for value in names["training_parameters"]:
            names["set_parameters"](value)
            names["problem"].solve()
            samples.add()
    assert cli.main(["train", "data", "--out", "model", "--set", "training.epochs=2", "--quiet"]) == 0
    return names


def setup_case() -> dict[str, Any]:
    """A problem of a case and its shipped operator."""
    import numpy as np
    from mpi4py import MPI

    from lrsa_coupled import LearnedGuess, load_case

    case = load_case("cavity")
    parameters = case.sample(np.random.default_rng(3))
    problem = case.problem(case.mesh(MPI.COMM_WORLD, parameters, 8), parameters)
    return {"case": case, "problem": problem, "guess": LearnedGuess.load(ROOT / "cases" / "cavity")}


def setup_beam() -> dict[str, Any]:
    """A script with a traction that its loop raises, as in the DOLFINx tutorial."""
    import numpy as np
    from dolfinx import default_scalar_type, fem

    names = setup_script()
    domain = names["u"].function_space.mesh
    return names | {"np": np, "T": fem.Constant(domain, default_scalar_type((0.0, 0.0, 0.0)))}


def setup_wave() -> dict[str, Any]:
    """Matrices of a Helmholtz problem and its stiffness, and a solver for them."""
    import ufl
    from mpi4py import MPI
    from dolfinx import fem, mesh
    from dolfinx.fem.petsc import assemble_matrix
    from petsc4py import PETSc

    domain = mesh.create_unit_cube(MPI.COMM_WORLD, 4, 4, 4)
    space = fem.functionspace(domain, ("P", 1))
    u, v, g = ufl.TrialFunction(space), ufl.TestFunction(space), fem.Function(space)
    bc = fem.dirichletbc(0.0, fem.locate_dofs_geometrical(space, lambda x: x[0] < 1e-8), space)
    stiffness = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    shifted = stiffness - 16.0 * ufl.exp(g) * u * v * ufl.dx
    matrices = [assemble_matrix(fem.form(form), bcs=[bc]) for form in (shifted, stiffness)]
    for matrix in matrices:
        matrix.assemble()
    return {"A": matrices[0], "P": matrices[1], "V": space, "bc": bc, "g": g, "ksp": PETSc.KSP().create(domain.comm)}


def setup_evolution() -> dict[str, Any]:
    """Space, Dirichlet condition and first state of a heat equation."""
    import ufl
    from mpi4py import MPI
    from dolfinx import fem, mesh

    domain = mesh.create_unit_square(MPI.COMM_WORLD, 4, 4)
    space = fem.functionspace(domain, ("P", 2))
    bc = fem.dirichletbc(0.0, fem.locate_dofs_geometrical(space, lambda x: x[0] < 1e-8), space)
    return {"ufl": ufl, "V": space, "bc": bc, "u0": fem.Function(space)}


def test_front_page_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 200 and len(text.encode()) <= 12_000
    assert text[: text.index("attach(problem")].count("\n") < 80
