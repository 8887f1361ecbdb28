"""``lrsa-coupled bench``: compare the methods of a case on unseen samples."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrsa_coupled import catalog, mpi
from lrsa_coupled.bench.compare import best_baseline, speedups
from lrsa_coupled.cli._arguments import add_case, add_preset, add_settings, listed
from lrsa_coupled.cli._startup import check_petsc, start, writing

if TYPE_CHECKING:
    from mpi4py import MPI

    from lrsa_coupled.bench.rows import Results
    from lrsa_coupled.config import Config
    from lrsa_coupled.interfaces import Case

HELP = "compare initial guesses and methods on unseen samples"
EXAMPLE = "lrsa-coupled bench cavity --samples 6 --html page.html"


@dataclass(frozen=True)
class Request:
    """What is compared, as in ``compare_methods``, of a case by its name or path; what is written."""

    case: str
    model: Path | None
    data: Path | None = None
    only: tuple[str, ...] = ()
    json: Path | None = None
    html: Path | None = None
    pictures: Path | None = None


def add_arguments(parser: ArgumentParser) -> None:
    add_case(parser)
    add_settings(parser, "bench.samples", "problem.seed", "problem.resolution")
    text = "what is compared: single solves; the wall time of a study from nothing, each rank on samples of its own; "
    text += "or what the mean of the first quantity costs by each method of 'estimate', at four widths of its interval"
    parser.add_argument("--what", choices=("solves", "study", "estimate"), default="solves", help=text)
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the model; the shipped one by default")
    text = "training data, to add the nearest sample, and modes with a Gaussian process, as baselines"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    text = "some of the baselines; all by default"
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON Lines")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained HTML page")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write PNG pictures")
    add_preset(parser)


def run(args: Namespace, petsc: Sequence[str]) -> int:
    """Compare; the exit code is 1 when no method has solved a sample."""
    case, config, comm = start(args, petsc)
    model = args.model or catalog.shipped_model(args.case)
    request = Request(args.case, model, args.data, tuple(args.only), args.json, args.html, args.pictures)
    with writing(comm, folders=[args.pictures], files=[args.json, args.html]):
        if args.what == "solves":
            solved = compare_and_report(case, config, comm, request)
        else:
            solved = whole_and_report(case, config, comm, request, what=args.what)
    check_petsc(comm, petsc)
    return 0 if solved else 1


def whole_and_report(case: Case, config: Config, comm: MPI.Intracomm, request: Request, *, what: str) -> bool:
    """Compare whole studies or estimates, print the table, write what is asked for; return whether all was solved.

    Collective. ValueError for data: the methods begin from nothing.
    """
    from lrsa_coupled.bench import html, rows as stored
    from lrsa_coupled.bench.experiments import estimates, study
    from lrsa_coupled.bench.samples import Samples

    if request.data is not None:
        raise ValueError(f"bench --what {what} begins from nothing and takes no --data, got {request.data}")
    module = study if what == "study" else estimates
    if request.only and module is estimates:
        raise ValueError(f"bench --what estimate compares all methods, got --only {' '.join(request.only)}")
    found = module.run(module.arguments(request.only), Samples(case, config, comm, request.model))

    def write() -> None:
        print(module.table(found))
        if request.json is not None:
            stored.write_rows(found, request.json)
            print(f"\nrows: {request.json}")
        if request.html is not None:
            html.write_html([found], request.html)
            print(f"page: {request.html}")
        if request.pictures is not None:
            print(f"picture: {module.picture(found, request.pictures)}")

    mpi.share(comm, write)
    return all(row.solved for row in found.rows)


def compare_and_report(case: Case, config: Config, comm: MPI.Intracomm, request: Request) -> bool:
    """Compare, print the tables, write what is asked for; return whether each sample was solved. Collective."""
    from lrsa_coupled.bench import html, measure, pictures, report, rows as stored

    found = measure.compare_methods(case, config, comm, model=request.model, data=request.data, only=request.only)

    def write() -> None:
        print(report.table(found.results))
        if request.json is not None:
            stored.write_rows(found.results, request.json)
            print(f"\nrows: {request.json}")
        if request.html is not None:
            html.write_html([found.results], request.html)
            print(f"page: {request.html}")
        if request.pictures is not None:
            paths = pictures.comparison_pictures(found.results, found.example, request.pictures)
            print("pictures: " + ", ".join(map(str, paths)))

    mpi.share(comm, write)
    rows = [row for each in found.results.methods.values() for row in each]
    unsolved = {row.sample for row in rows} - {row.sample for row in rows if row.solved}
    if unsolved:
        mpi.print_once(f"no method has solved sample {listed(sorted(unsolved))}")
    mpi.print_once(f"next: {_next(found.results, request)}")
    return not unsolved


def _next(results: Results, request: Request) -> str:
    """Say what to do, by the best baseline."""
    case, data = request.case, request.data or "DATA"
    if request.model is None:
        made = "" if request.data else f"lrsa-coupled generate {case} --out {data}, then "
        return f"for a learned guess {made}lrsa-coupled train {data} --out MODEL, then --model MODEL"
    times = results.solved_times
    found = speedups(times)
    if not found:
        return "no baseline to compare with: leave out --only, or add --data"
    best = best_baseline(times)
    if not found[best].ratios:
        return f"no sample is solved both by {best} and from the learned guess: lrsa-coupled check {case}"
    own = request.model != catalog.shipped_model(case)
    if found[best].mean > 1.0:
        return (
            f"lrsa-coupled solve {case}{f' --model {request.model}' * own} --out DIR, or more samples with --html FILE"
        )
    return f"{best} is faster: stay with it, or train longer or on more samples where the guess error is large"
