"""Weights of an earlier model to begin a training with: of other samples, of a case with other fields.

Shapes: C width, d dimension of space, F nodal inputs, G scalars, J frequencies, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lrsa_coupled.operators.model import Operator
from lrsa_coupled.schema import Field, Schema

Pairs = list[tuple[int, int]]
"""Columns of what two models share: of the earlier one, of the one to be trained."""


@torch.no_grad()
def begin_with(model: Operator, schema: Schema, earlier: Operator, before: Schema) -> list[str]:
    """Give a model, whose normaliser is fitted, the predictions of an earlier one of the same operator.

    Inputs, scalars and outputs go by their names. One that the earlier model has not, or that was constant in its
    training, begins with zero weights: such an input has no effect at first, such an output is its mean. Coordinates
    keep the units of the earlier model, since sinusoids of them are not linear; all else is in the units of the new
    samples, with weights scaled such that the predictions stay.

    Returns:
        Names of the fields and scalars that begin with zero.

    Raises:
        ValueError: If the dimension differs, or no output is the same.
    """
    if before.dim != schema.dim:
        raise ValueError(f"it is of dimension {before.dim} instead of {schema.dim}")
    outputs = _pairs(before.outputs, schema.outputs)
    if not outputs:
        found, wanted = (", ".join(item.name for item in each.outputs) for each in (before, schema))
        raise ValueError(f"it predicts {found}, none of {wanted}")
    old, new = earlier.normaliser, model.normaliser
    inputs = _varied(_pairs(before.inputs, schema.inputs), old.inputs_std)
    names = [[Field(name) for name in each.scalars] for each in (before, schema)]
    scalars = _varied(_pairs(*names), old.scalars_std)
    new.points_mean.copy_(old.points_mean)
    new.points_std.copy_(old.points_std)
    own, weights = model.state_dict(), earlier.state_dict()
    special = ("normaliser.", "lift.first.", "head.")
    kept = {name: value for name, value in weights.items() if not name.startswith(special)}
    model.load_state_dict(kept | {name: value for name, value in own.items() if name.startswith(special)})
    _set_lift(model, earlier, inputs, scalars)
    model.head.weight.zero_()
    model.head.bias.zero_()
    for k, j in outputs:
        scale = old.outputs_std[k] / new.outputs_std[j]
        model.head.weight[j] = earlier.head.weight[k] * scale
        shift = (old.outputs_mean[k] - new.outputs_mean[j]) / new.outputs_std[j]
        model.head.bias[j] = earlier.head.bias[k] * scale + shift
    return [
        *_unmatched(schema.inputs, inputs), *_unmatched(names[1], scalars), *_unmatched(schema.outputs, outputs)
    ]  # fmt: skip


def _set_lift(model: Operator, earlier: Operator, inputs: Pairs, scalars: Pairs) -> None:
    """Set the first layer of the lift, whose columns are coordinates, inputs, scalars and sinusoids."""
    old, new, first, source = earlier.normaliser, model.normaliser, model.lift.first, earlier.lift.first
    (from_F, from_G, from_J), (to_F, to_G, to_J) = (
        [*accumulate((each.dim, each.num_inputs, each.num_scalars))] for each in (earlier, model)
    )
    first.weight.zero_()
    first.bias.copy_(source.bias)
    first.weight[:, :to_F] = source.weight[:, :from_F]
    first.weight[:, to_J:] = source.weight[:, from_J:]
    moments = (
        (inputs, from_F, to_F, (old.inputs_mean, old.inputs_std, new.inputs_mean, new.inputs_std)),
        (scalars, from_G, to_G, (old.scalars_mean, old.scalars_std, new.scalars_mean, new.scalars_std)),
    )
    for pairs, begin, to, (old_mean, old_std, new_mean, new_std) in moments:
        for k, j in pairs:
            column_C = source.weight[:, begin + k] / old_std[k]
            first.weight[:, to + j] = column_C * new_std[j]
            first.bias.add_(column_C * (new_mean[j] - old_mean[k]))


def _columns(fields: Sequence[Field]) -> Iterator[tuple[Field, range]]:
    """Yield fields with their columns."""
    ends = pairwise(accumulate((item.components for item in fields), initial=0))
    return ((item, range(*both)) for item, both in zip(fields, ends, strict=True))


def _pairs(before: Sequence[Field], now: Sequence[Field]) -> Pairs:
    """Return the columns of the fields that are the same."""
    known = {(item.name, item.components, item.span, item.relative_to): columns for item, columns in _columns(before)}
    pairs: Pairs = []
    for item, columns in _columns(now):
        same = known.get((item.name, item.components, item.span, item.relative_to), range(0))
        pairs += zip(same, columns, strict=False)
    return pairs


def _varied(pairs: Pairs, std: Tensor) -> Pairs:
    """Leave out columns that were constant, whose weights were never trained: the normaliser gives them 1."""
    return [(k, j) for k, j in pairs if float(std[k]) != 1.0]


def _unmatched(fields: Sequence[Field], pairs: Pairs) -> list[str]:
    found = {j for _, j in pairs}
    return [item.name for item, columns in _columns(fields) if not found.issuperset(columns)]
