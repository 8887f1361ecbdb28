"""What changes from solve to solve in a script's problem, and is named neither as an input nor as a scalar."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, final

import numpy as np
import ufl
from ufl.algorithms import extract_coefficients
from ufl.algorithms.analysis import extract_constants
from ufl.core.expr import Expr
from dolfinx.fem import Constant, Form, Function
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem

from lrsa_coupled.data.format import digest
from lrsa_coupled.interfaces import Unknown

NONE = "-"
"""Instead of a digest."""


@final
class Unnamed:
    """Coefficients and Constants of the compiled forms of a problem, and its Dirichlet values, that nobody has named.

    Where a source is a function of the script, what it reads is not known: then nothing is looked at. Collective: no;
    each rank sees its own values.

    Args:
        problem: The problem; a bare solver has no forms.
        what: Its unknown.
        sources: Where inputs and scalars are found.
    """

    def __init__(self, problem: Any, what: Unknown, sources: Iterable[Any]) -> None:
        sources = list(sources)
        known = {id(_compiled(each)) for each in [*what.functions, *_objects(sources)]}
        found = [] if any(callable(each) and not isinstance(each, Expr) for each in sources) else _in_forms(problem)
        self._objects = {id(each): each for each in [*found, *(bc.g for bc in what.bcs)] if id(each) not in known}
        self._prescribed = {id(bc.g) for bc in what.bcs}
        self._checksums: dict[int, int] = {}
        self._first = {key: each.value.copy() for key, each in self._objects.items() if not hasattr(each, "x")}

    def changed(self) -> list[str]:
        """Return names of what has changed since the last call; each once."""
        names = []
        for key, each in list(self._objects.items()):
            checksum = zlib.crc32(np.ascontiguousarray(_values(each)).view(np.uint8))
            if self._checksums.setdefault(key, checksum) != checksum:
                names.append(_name(each, self._first.get(key), is_prescribed=key in self._prescribed))
                del self._objects[key]
        return names


def source_of(problem: Any, quantities: Mapping[str, ufl.Form]) -> str:
    """Return digests of the signatures of the equations and of the quantities, - for none. Collective: no.

    A bare solver has no equations.
    """
    equations = []
    for form in _forms(problem):
        module, compiled = form.module, form.ufcx_form  # several on cells of several kinds, which have no signature
        if isinstance(module, ModuleType) and compiled is not None:
            equations.append(module.ffi.string(compiled.signature).decode())
    asked = [f"{name} {form.signature()}" for name, form in sorted(quantities.items()) if isinstance(form, ufl.Form)]
    return " ".join(digest(each.encode() for each in parts) if parts else NONE for parts in (equations, asked))


def _objects(sources: Sequence[Any]) -> Iterator[Function | Constant]:
    """Yield the functions and constants of which sources are made."""
    for each in sources:
        source = getattr(each, "ufl_expression", each)  # of an Expression of DOLFINx
        if isinstance(source, Expr):
            yield from extract_coefficients(source)
            yield from extract_constants(source)


def _in_forms(problem: Any) -> list[Any]:
    """Return the coefficients and constants of the forms of a problem, as the C++ objects that they are."""
    forms = map(_compiled, _forms(problem))
    return [each for form in forms for each in (*form.coefficients, *form.constants)]


def _forms(problem: Any) -> list[Form]:
    """Return the compiled forms of a problem; none of a bare solver."""
    names = {NonlinearProblem: ("F",), LinearProblem: ("a", "L")}
    return [*_flat([getattr(problem, name) for kind in names if isinstance(problem, kind) for name in names[kind]])]


def _compiled(each: Any) -> Any:
    return getattr(each, "_cpp_object", None)  # forms and conditions hold objects of that kind


def _flat(forms: Any) -> Iterator[Form]:
    if isinstance(forms, Form):
        yield forms
    elif forms is not None:
        for each in forms:
            yield from _flat(each)


def _values(each: Any) -> Any:
    return each.x.array if hasattr(each, "x") else each.value


def _name(each: Any, first: Any, *, is_prescribed: bool) -> str:
    """Name what has changed; a Constant has no name but its values, at first and now."""
    if hasattr(each, "x"):
        return f"the function '{each.name}'"
    first, now = (np.array2string(np.asarray(value), precision=4, threshold=4) for value in (first, each.value))
    return f"{'a Dirichlet value' if is_prescribed else 'a Constant'}, {first} at first and now {now},"
