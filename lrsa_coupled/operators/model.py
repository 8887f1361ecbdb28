"""The operator: coordinates, nodal inputs and scalars of a problem to its nodal outputs, physical units on both ends.

Points may be any, of any number, in chunks and partitioned over ranks.

Shapes: B batch, N points on this rank, C width, d dimension of space, F nodal inputs, G scalars, K outputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from lrsa_coupled.config import AttentionConfig, OperatorConfig
from lrsa_coupled.operators.chunks import over_chunks
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.operators.layers import Lift, PointBlock, normed_linear
from lrsa_coupled.operators.lrsa import LRSABlock, Tokens
from lrsa_coupled.operators.normalise import Normaliser
from lrsa_coupled.operators.precision import in_full_precision
from lrsa_coupled.operators.reducer import Reducer

type Head = Callable[[Tensor, Tensor], Tensor]
"""Takes the last features and the nodal inputs of points to what is wanted there."""


@final
class Operator(nn.Module):
    """Operator from (points, nodal inputs, scalars) to nodal outputs, physical units on both ends.

    Args:
        config: Kind and sizes.
        dim: Dimension of space.
        num_inputs: Nodal input values at a point.
        num_scalars: Scalars of a problem.
        num_outputs: Output values at a point.
        relative_to: Column of the nodal inputs that each output corrects, ``num_inputs`` for none; or empty.

    Raises:
        ValueError: If a size is not positive or the heads do not divide the width.
    """

    def __init__(
        self,
        config: OperatorConfig,
        dim: int,
        num_inputs: int,
        num_scalars: int,
        num_outputs: int,
        *,
        relative_to: Sequence[int] = (),
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("the number of outputs", num_outputs)):
            if value < 1:
                raise ValueError(f"operator: {name} must be at least 1, got {value}")
        if config.needs_grid and dim != 2:
            raise ValueError(f"operator: {config.kind} on a grid is for two dimensions, the points have {dim}")
        if isinstance(config, AttentionConfig) and config.width % config.num_heads != 0:
            raise ValueError(f"operator: num_heads = {config.num_heads} must divide width = {config.width}")
        self.config = config
        self.dim, self.num_inputs, self.num_scalars, self.num_outputs = dim, num_inputs, num_scalars, num_outputs
        self.relative_to = list(relative_to)
        self.normaliser = Normaliser(dim, num_inputs, num_scalars=num_scalars, num_outputs=num_outputs)
        self.lift = Lift(
            dim, config.width, num_inputs=num_inputs, num_scalars=num_scalars, num_frequencies=config.num_frequencies
        )
        block: type[PointBlock] = LRSABlock
        if config.kind != "lrsa":
            block = importlib.import_module(f"lrsa_coupled.bench.baselines.{config.kind}").Block
        self.blocks: Any = nn.ModuleList(block(config) for _ in range(config.num_blocks))
        self.head_norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, num_outputs)
        self.find_grid = find_grid
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights: normal linear layers, zero biases, orthogonal queries; nothing on ``meta``."""
        if self.head.weight.is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=self.config.weight_std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, PointBlock):
                module.initialise()
        for name, weight in self.named_parameters():
            if name.endswith("queries_HMD"):
                for queries_MD in weight:
                    nn.init.orthogonal_(queries_MD)

    def forward(
        self,
        points_BNd: Tensor,
        inputs_BNF: Tensor,
        scalars_BG: Tensor,
        mass_BN: Tensor | None = None,
        *,
        reducer: Reducer | None = None,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Predict the outputs at the points.

        The blocks run in the precision of the caller's autocast; normalisation, lift and head in that of the weights
        (float32). Collective: over the ranks of ``reducer``, if any, forward and backward; gradients are those of the
        sum of the ranks' losses, each rank holds its own part of those of the weights.

        N may be 0 with a reducer. The lumped mass, in any unit, is read when the operator is mass-weighted.
        ``chunk_size``, the points of a chunk, bounds the memory to ``2 B N C`` numbers and those of a chunk; with
        gradients to ``(L + 4) B N C`` for L blocks, at the cost of a second forward pass.

        Returns:
            Outputs ``(B, N, K)`` in physical units.

        Raises:
            ValueError: If shapes do not fit the model or a mass is needed and missing.
        """
        return self.encode(points_BNd, inputs_BNF, scalars_BG, mass_BN, reducer=reducer, chunk_size=chunk_size)[0]

    def encode(
        self,
        points_BNd: Tensor,
        inputs_BNF: Tensor,
        scalars_BG: Tensor,
        mass_BN: Tensor | None = None,
        *,
        reducer: Reducer | None = None,
        chunk_size: int | None = None,
    ) -> tuple[Tensor, list[Tokens]]:
        """Predict as ``forward`` does, and return the tokens of all blocks for ``decode``, if it is supported."""
        fields = (points_BNd, inputs_BNF, scalars_BG, mass_BN)
        return self._encoded(self._outputs, *fields, reducer=reducer, chunk_size=chunk_size)

    def last_features(self, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor, mass_BN: Tensor | None = None,
                      *, reducer: Reducer | None = None) -> Tensor:  # fmt: skip
        """Return what the head maps to normalised outputs ``(B, N, C)``. Collective and errors as ``forward``."""
        fields = (points_BNd, inputs_BNF, scalars_BG, mass_BN)
        return self._encoded(self._last, *fields, reducer=reducer, chunk_size=None)[0]

    def decode(self, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor, tokens: Sequence[Tokens]) -> Tensor:
        """Predict, as ``forward`` does, at further points of the problems whose ``tokens`` come from ``encode``.

        Collective: no; each rank decodes points of its own. A point that ``encode`` has seen gets the same outputs.
        ValueError when the operator has no tokens.
        """
        if not self.config.takes_parts:
            raise ValueError(f"operator: {self._name} has no tokens to decode from; evaluate it at all points")
        features_BNC = self._lifted(points_BNd, inputs_BNF, scalars_BG)
        for block, known in zip(self.blocks, tokens, strict=True):
            features_BNC = block.decode(features_BNC, *known)
        return self._outputs(features_BNC, inputs_BNF)

    def base(self, inputs_BNF: Tensor) -> Tensor | None:
        """Return the inputs that the outputs correct ``(B, N, K)``, zero where there is none; None when none does."""
        return nn.functional.pad(inputs_BNF, (0, 1))[..., self.relative_to] if self.relative_to else None

    @property
    def _name(self) -> str:
        return f"{self.config.kind} on a grid" if self.config.needs_grid else self.config.kind

    def _encoded(self, head: Head, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor, mass_BN: Tensor | None,
                 *, reducer: Reducer | None, chunk_size: int | None) -> tuple[Tensor, list[Tokens]]:  # fmt: skip
        """Apply all blocks and a head; return the tokens, too."""
        self._check_arguments(points_BNd, inputs_BNF, scalars=scalars_BG, mass=mass_BN)
        if not self.config.takes_parts:
            if reducer is not None or chunk_size is not None:
                raise ValueError(f"operator: {self._name} needs all points on one rank, in one piece; lrsa does not")
            return self._whole(head, points_BNd, inputs_BNF, scalars_BG, mass_BN), []
        if reducer is None and points_BNd.shape[1] == 0:
            raise ValueError("the operator needs at least one point")
        features_BNC = over_chunks(self._lifted, [points_BNd, inputs_BNF], size=chunk_size, shared=[scalars_BG])
        bias_BN = self._log_mass(mass_BN, reducer)
        all_tokens = []
        for block in self.blocks:
            features_BNC, tokens = block.encode(features_BNC, bias_BN, reducer=reducer, chunk_size=chunk_size)
            all_tokens.append(tokens)
        return over_chunks(head, [features_BNC, inputs_BNF], size=chunk_size), all_tokens

    def _whole(self, head: Head, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor,
               mass_BN: Tensor | None) -> Tensor:  # fmt: skip
        """Apply blocks that need all points at once, in the order of the grid when they need one, and a head."""
        grid = self.find_grid(points_BNd) if self.config.needs_grid else None
        if grid is not None:  # arguments and outputs, not features: these have many columns, and gradients
            points_BNd, inputs_BNF = grid.into(points_BNd), grid.into(inputs_BNF)
            mass_BN = None if mass_BN is None else grid.into(mass_BN)
        shape, bias_BN = None if grid is None else grid.shape, self._log_mass(mass_BN, None)
        features_BNC = self._lifted(points_BNd, inputs_BNF, scalars_BG)
        for block in self.blocks:
            features_BNC = block(features_BNC, bias_BN, shape)
        outputs_BNK = head(features_BNC, inputs_BNF)
        return outputs_BNK if grid is None else grid.back(outputs_BNK)

    def _lifted(self, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor) -> Tensor:
        with in_full_precision(points_BNd.device):
            return self.lift(*self.normaliser.normalised(points_BNd, inputs_BNF, scalars_BG))

    def _last(self, features_BNC: Tensor, inputs_BNF: Tensor) -> Tensor:
        with in_full_precision(features_BNC.device):
            return self.head_norm(features_BNC.to(self.head.weight.dtype))

    def _outputs(self, features_BNC: Tensor, inputs_BNF: Tensor) -> Tensor:
        base_BNK = self.base(inputs_BNF)
        with in_full_precision(features_BNC.device):
            outputs_BNK = self.normaliser.physical_outputs(normed_linear(features_BNC, self.head_norm, self.head))
        return outputs_BNK if base_BNK is None else outputs_BNK + base_BNK.to(outputs_BNK.dtype)

    def _log_mass(self, mass_BN: Tensor | None, reducer: Reducer | None) -> Tensor | None:
        """Return the bias of the down attention, of mean zero on one process: a constant only costs digits."""
        if mass_BN is None or not self.config.needs_mass:
            return None
        bias_BN = torch.log(mass_BN)
        if reducer is None:
            bias_BN = bias_BN - bias_BN.mean(dim=1, keepdim=True)
        return bias_BN.to(self.head.weight.dtype)

    def _check_arguments(self, points: Tensor, inputs: Tensor, *, scalars: Tensor, mass: Tensor | None) -> None:
        batch, num_points = points.shape[:2]
        checks = [
            ("points", points, (batch, num_points, self.dim)),
            ("inputs", inputs, (batch, num_points, self.num_inputs)),
            ("scalars", scalars, (batch, self.num_scalars)),
        ]
        if mass is not None:
            checks.append(("mass", mass, (batch, num_points)))
        elif self.config.needs_mass:
            raise ValueError("this model is mass-weighted: it needs the lumped mass of the points")
        for name, tensor, shape in checks:
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
