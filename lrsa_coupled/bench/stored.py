"""Ledgers read back from their JSON files, checked before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from lrsa_coupled.bench.breakeven import PARTS
from lrsa_coupled.bench.compare import STAGES

WRITER = "lrsa-coupled bench CASE --json FILE"

LARGEST = 1e18
"""Bound of all numbers in a ledger."""

NUMBER = (int, float)
HEADER: Mapping[str, tuple[type, ...]] = {
    "case": (str,), "resolution": (int,), "seed": (int,), "ranks": (int,), "tolerance": NUMBER, "strategies": (list,),
}  # fmt: skip
SAMPLE: Mapping[str, tuple[type, ...]] = {
    "index": (int,), "solved": (bool,), "iterations": (int,), "relative_error": (*NUMBER, type(None)), "seconds": (dict,),
}  # fmt: skip
OPTIONAL: Mapping[str, tuple[type, ...]] = {
    "unknowns": (int,), "residual": (*NUMBER, type(None)), "atol": (*NUMBER, type(None)), "used_fallback": (bool,), "reason": (str, type(None)),
}  # fmt: skip
NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def read_ledger(path: Path) -> dict[str, Any]:
    """Read a ledger of start strategies.

    Raises:
        ValueError: If the file cannot be read or holds something else; the message names the entry.
    """
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); expected a ledger that '{WRITER}' wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); expected a ledger that '{WRITER}' wrote") from error
    try:
        check_ledger(ledger)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected a ledger that '{WRITER}' wrote") from error
    return ledger


def check_ledger(ledger: Any) -> None:
    """Raise ValueError unless this is a ledger of start strategies as ``bench/ledger.py`` describes it, of this or an earlier release."""
    _expect({"it": ledger}, {"it": (dict,)}, where="")
    _expect(ledger, HEADER, where="")
    _positive(ledger["ranks"], "ranks")
    _positive(ledger["tolerance"], "tolerance")
    for name in ("versions", "machine", "cost"):
        if name in ledger:
            _expect(ledger, {name: (dict,)}, where="")
    for part in PARTS:
        if (cost := ledger.get("cost", {}).get(part)) is not None:
            _expect(ledger["cost"], {part: NUMBER}, where="cost: ")
            _positive(cost, f"cost.{part}")
    if not ledger["strategies"]:
        raise ValueError("it has no strategy")
    for strategy in ledger["strategies"]:
        _check_strategy(strategy)
    names = [strategy["name"] for strategy in ledger["strategies"]]
    if len(set(names)) < len(names):
        raise ValueError(f"a strategy occurs twice among {', '.join(names)}")


def _check_strategy(strategy: Any) -> None:
    _expect({"a strategy": strategy}, {"a strategy": (dict,)}, where="")
    if "samples_per_hour" in strategy:
        raise ValueError("this is a ledger of data generation (--what generate)")
    _expect(strategy, {"name": (str,), "samples": (list,)}, where="a strategy: ")
    if not strategy["name"].isprintable() or not strategy["name"]:
        raise ValueError(f"the name of a strategy should be a line of text, got {strategy['name']!r}")
    for place, sample in enumerate(strategy["samples"]):
        where = f"{strategy['name']}, sample number {place}: "
        _expect({"it": sample}, {"it": (dict,)}, where=where)
        _expect(sample, SAMPLE, where=where)
        _expect(sample, {name: kinds for name, kinds in OPTIONAL.items() if name in sample}, where=where)
        _expect(sample["seconds"], dict.fromkeys(STAGES, NUMBER), where=f"{where}seconds: ")
        _positive(sample["seconds"]["total"], f"{where}seconds: total")
        if sample["iterations"] < 0 or min(sample["seconds"][stage] for stage in STAGES) < 0.0:
            raise ValueError(f"{where}iterations and seconds should not be negative")
    indices = [sample["index"] for sample in strategy["samples"]]
    if len(set(indices)) < len(indices):
        raise ValueError(f"{strategy['name']} has two samples of the same index")


def _expect(values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], *, where: str) -> None:
    """Check that entries are there and of their kinds; numbers are finite."""
    for name, allowed in kinds.items():
        if name not in values:
            raise ValueError(f"{where}'{name}' is missing")
        value = values[name]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            wanted = " or ".join(NAMES[kind] for kind in allowed if not (kind is int and float in allowed))
            raise ValueError(f"{where}{name} should be {wanted}, got {_short(value)}")
        if isinstance(value, NUMBER) and not abs(value) < LARGEST:
            raise ValueError(f"{where}{name} should be a number below {LARGEST:g}, got {_short(value)}")


def _positive(value: float, where: str) -> None:
    if value <= 0:
        raise ValueError(f"{where} should be positive, got {value}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")
