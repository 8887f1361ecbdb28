"""Direct solvers, multigrid, deflation and operators as preconditioners of a linear case, every cost counted.

Every method starts from the compiled forms, the assembled matrix A, the right side and zero, and ends at the true
residual ``rtol`` times that of zero; but the methods of the case assemble A themselves, and set up most in ``solve``.
What a method needs besides is made for each sample and is in ``setup``: the preconditioning matrix P, interpolation
from a coarse mesh, modes, nodes and inputs of an operator, of which ``inference`` is the evaluation; an operator that
is applied in each iteration has its own in ``solve``. In the rows ``values`` holds the ``dimension`` of a coarse
space and the ``memory`` [bytes] of all ranks that the first sample needs beyond the matrix, at its peak.

Methods: those of the case; ILU in blocks; SuperLU_DIST; algebraic multigrid on A, on P and on P + s B / 2 where A = P
- s B; deflation of that on P by exact modes of (P, B), by those of a coarse mesh, and by a predicted basis with 0 to
2 inverse iteration steps; operators as preconditioners.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lrsa_coupled.bench.compare import chosen
from lrsa_coupled.bench.experiments import add_only
from lrsa_coupled.bench.machine import PeakMemory
from lrsa_coupled.bench.payback import PayBack, pay_back_note, pay_back_rows, savings
from lrsa_coupled.bench.report import align, heading, mean_iterations, median, solved_count
from lrsa_coupled.bench.rows import Results, Row
from lrsa_coupled.logs import progress
from lrsa_coupled.mpi import collective_errors

if TYPE_CHECKING:
    from lrsa_coupled.bench.linear_methods import Method, System
    from lrsa_coupled.bench.samples import Samples

ON_RANKS = True
STUDY = "preconditioners"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    text = "models that predict a basis or a correction; those that the case ships by default"
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help=text)
    add_only(parser, "methods")


def run(args: Namespace, samples: Samples) -> Results:
    """Measure; ValueError, on all ranks, without a spectrum, or for a model or method that does not fit. Collective."""
    from lrsa_coupled.bench.linear_methods import linear_methods, spectrum_of, system

    case, config = samples.case, samples.config
    with collective_errors(samples.comm):
        methods = linear_methods(case, config, args.models or samples.operators)
        methods = chosen(methods, args.only, what="preconditioner")
    memory: dict[str, int | None] = {}
    rows: list[Row] = []
    for index in progress(range(-1, config.bench.samples), description=f"{STUDY} of {case.name}"):
        linear = system(samples, spectrum_of(case), max(index, 0))
        for method in methods:
            if index < 0:  # not counted: compiles the forms, wakes torch
                memory[method.name] = _measured_memory(method, linear)
            else:
                row = method.solve(linear)
                rows.append(msgspec.structs.replace(row, values=row.values | {"memory": memory[method.name]}))
        linear.destroy()
    costs = {method.name: method.cost for method in methods if method.cost is not None}
    return samples.results(STUDY, rows, costs, rtol=samples.case.rtol)


def table(results: Results) -> str:
    """Format results: times are medians over the samples, ratios against the fastest method without an operator."""
    methods, costs = results.methods, results.header.costs
    totals = {name: median(rows) if all(row.solved for row in rows) else math.inf for name, rows in methods.items()}
    best = min((name for name in totals if name not in costs), key=totals.__getitem__, default=next(iter(totals)))
    stages = ("setup", "inference", "solve")
    head = ["preconditioner", "solved", "iterations", *(f"{stage} [s]" for stage in stages), "total [s]"]
    lines = [[*head, "memory [MB]", "residual", f"against {best}"]]
    for name, rows in methods.items():
        memory, known = rows[0].values["memory"], math.isfinite(totals[name])
        cells = [name, solved_count(rows), f"{mean_iterations(rows):.1f}"]
        cells += [f"{median(rows, stage):.3f}" for stage in stages]
        cells += [f"{totals[name]:.3f}" if known else "-", "-" if memory is None else f"{float(memory) / 1e6:.0f}"]
        cells += [f"{max(row.residual or 0.0 for row in rows):.1e}"]
        lines.append([*cells, f"{totals[best] / totals[name]:.2f}" if known else "-"])
    found = [
        PayBack(f"{best}, by {name}", cost.total, savings(methods[best], methods[name]))
        for name, cost in costs.items()
        if name != best
    ]
    notes = dict.fromkeys(pay_back_note(cost) for cost in costs.values())
    paid = ["\n".join([align(pay_back_rows(found)), *notes])] if found else []
    return "\n\n".join([heading(results), align(lines), *paid])


def _measured_memory(method: Method, linear: System) -> int | None:
    """Solve, not counted, and return the memory of all ranks; None where the system does not show it. Collective."""
    try:
        peak = PeakMemory()
    except OSError:
        peak = None
    method.solve(linear)
    grown = linear.samples.comm.allgather(None if peak is None else peak.grown())
    return None if None in grown else sum(grown)
