"""Results made by hand, shared by the tests of reports."""

from __future__ import annotations

from collections.abc import Sequence

from lrsa_coupled.bench.compare import LEARNED
from lrsa_coupled.bench.rows import Cost, Header, Results, Row, Seconds


def method(name: str, seconds: Sequence[float], *, failed: Sequence[int] = (), guess: float = 0.0) -> list[Row]:
    """Rows of a method with these total times; ``guess`` of each is inference."""
    return [
        Row(
            method=name,
            sample=k,
            seconds=Seconds(total=total, inference=guess, solve=total - guess),
            iterations=3 + k,
            solved=k not in failed,
            residual=1e-9,
            atol=1e-7,
            start_error=0.05 if guess else None,
            reason="DIVERGED_MAX_IT" if k in failed else None,
        )
        for k, total in enumerate(seconds)
    ]


def results(*methods: list[Row], ranks: int = 1, resolution: int = 8, cost: Cost | None = None) -> Results:
    """Results of bench, with the cost of the learned guess."""
    header = Header(
        study="bench",
        case="cavity",
        resolution=resolution,
        seed=1,
        ranks=ranks,
        rtol=1e-6,
        costs={LEARNED: Cost(data=60.0, training=40.0) if cost is None else cost},
        machine={"processor": "P 9", "cores": 2, "threads_per_rank": 1},
        versions={"petsc4py": "3.25.5"},
    )
    return Results.of(header, [row for rows in methods for row in rows])
