"""Low-Rank Spatial Attention: point features are compressed into few latent tokens, mixed there, and reconstructed at the points.

The model takes and gives physical units at any set of points of any number; the set may be partitioned over ranks.

Shapes: B batch, N points on this rank, C width, H heads, M latent tokens, D = C / H, d dimension of space, F nodal inputs, G scalars,
K outputs.

Source: Yang, Xin, Du, Liu (2026), Low-Rank Spatial Attention, arXiv 2604.03582.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrsa_coupled.config import OperatorConfig
from lrsa_coupled.operators.attention import EPS, Reducer, attend, normalise_heads, pool
from lrsa_coupled.operators.embedding import Lift
from lrsa_coupled.operators.normalise import Normaliser

WEIGHT_STD = 0.02


Tokens = tuple[Tensor, Tensor]
"""Keys and values ``(B, H, M, D)`` of the up attention of a block: all that a further point needs."""


class FeedForward(nn.Module):
    """Norm, linear, GELU, linear, added to the argument."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.first = nn.Linear(width, ratio * width)
        self.second = nn.Linear(ratio * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., C)`` to ``(..., C)``."""
        return features + self.second(F.gelu(self.first(self.norm(features))))


class LatentAttention(nn.Module):
    """Self-attention between the latent tokens, added to the argument."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.projection = nn.Linear(width, 3 * width, bias=False)
        self.gain_D = nn.Parameter(torch.ones(width // num_heads))
        self.output = nn.Linear(width, width)

    def forward(self, latents_BMC: Tensor) -> Tensor:
        """Map ``(B, M, C)`` to ``(B, M, C)``."""
        queries, keys, values = _split_heads(self.projection(self.norm(latents_BMC)), 3, num_heads=self.num_heads)
        mixed_BHMD = attend(normalise_heads(queries) * self.gain_D, normalise_heads(keys), values_BHND=values)
        return latents_BMC + self.output(_merge_heads(mixed_BHMD))


class Block(nn.Module):
    """One LRSA block; attribute names follow the steps compress (down), process (latent), reconstruct (up).

    The keys and values of the down attention and the queries of the up attention are projections of the same normalised features; their
    separate weights are stacked into one matrix. The projected point features are normalised without a gain, see ``attention.py``.
    """

    def __init__(self, config: OperatorConfig) -> None:
        super().__init__()
        width, num_heads = config.width, config.num_heads
        self.num_heads = num_heads
        self.point_norm = nn.RMSNorm(width, eps=EPS)
        self.point_projection = nn.Linear(width, 3 * width, bias=False)
        self.down_queries_HMD = nn.Parameter(torch.empty(num_heads, config.num_latents, width // num_heads))
        self.down_gain_D = nn.Parameter(torch.ones(width // num_heads))
        self.down_output = nn.Linear(width, width)
        self.first_ffn = FeedForward(width, config.ffn_ratio)
        self.latent_attention = LatentAttention(width, num_heads)
        self.second_ffn = FeedForward(width, config.ffn_ratio)
        self.up_norm = nn.RMSNorm(width, eps=EPS)
        self.up_projection = nn.Linear(width, 2 * width, bias=False)
        self.up_gain_D = nn.Parameter(torch.ones(width // num_heads))
        self.up_output = nn.Linear(width, width)
        self.point_ffn = FeedForward(width, config.ffn_ratio)

    def forward(self, features_BNC: Tensor, bias_BN: Tensor | None, *, reducer: Reducer | None) -> tuple[Tensor, Tokens]:
        """Map ``(B, N, C)`` to ``(B, N, C)`` and the tokens it went through. Collective over the ranks of ``reducer``, if any."""
        width = features_BNC.shape[-1]
        projected = self.point_projection(self.point_norm(features_BNC))
        keys_and_queries, values = projected.split((2 * width, width), dim=-1)
        (values_BHND,) = _split_heads(values, 1, num_heads=self.num_heads)
        keys_BHND, queries_BHND = _split_normalised(keys_and_queries, 2, num_heads=self.num_heads)

        down_HMD = normalise_heads(self.down_queries_HMD) * self.down_gain_D
        pooled_BHMD = pool(down_HMD, keys_BHND, values_BHND=values_BHND, bias_BN=bias_BN, reducer=reducer)
        latents_BMC = self.down_output(_merge_heads(pooled_BHMD)).to(features_BNC.dtype)
        latents_BMC = self.second_ffn(self.latent_attention(self.first_ffn(latents_BMC)))

        up_keys_BHMD, up_values_BHMD = _split_heads(self.up_projection(self.up_norm(latents_BMC)), 2, num_heads=self.num_heads)
        tokens = (normalise_heads(up_keys_BHMD) * self.up_gain_D, up_values_BHMD)
        return self._reconstruct(features_BNC, queries_BHND, tokens), tokens

    def decode(self, features_BNC: Tensor, tokens: Tokens) -> Tensor:
        """Map the features of further points with tokens that are known already."""
        width = features_BNC.shape[-1]
        queries = F.linear(self.point_norm(features_BNC), self.point_projection.weight[width : 2 * width])
        (queries_BHND,) = _split_normalised(queries, 1, num_heads=self.num_heads)
        return self._reconstruct(features_BNC, queries_BHND, tokens)

    def _reconstruct(self, features_BNC: Tensor, queries_BHND: Tensor, tokens: Tokens) -> Tensor:
        keys_BHMD, values_BHMD = tokens
        spread_BHND = attend(queries_BHND, keys_BHMD, values_BHND=values_BHMD)
        return self.point_ffn(features_BNC + self.up_output(_merge_heads(spread_BHND)))


class LRSA(nn.Module):
    """Low-rank spatial attention operator from (points, nodal inputs, scalars) to nodal outputs, physical units on both ends.

    Args:
        config: Sizes of the model.
        dim: Dimension of space.
        num_inputs: Nodal input values at a point.
        num_scalars: Scalars of a problem.
        num_outputs: Output values at a point.
    Raises:
        ValueError: If a size is not positive or the heads do not divide the width.
    """

    def __init__(self, config: OperatorConfig, dim: int, num_inputs: int, num_scalars: int, num_outputs: int) -> None:
        super().__init__()
        _check(config, dim, num_inputs=num_inputs, num_scalars=num_scalars, num_outputs=num_outputs)
        self.config = config
        self.dim, self.num_inputs, self.num_scalars, self.num_outputs = dim, num_inputs, num_scalars, num_outputs
        self.normaliser = Normaliser(dim, num_inputs, num_scalars=num_scalars, num_outputs=num_outputs)
        self.lift = Lift(
            dim, config.width, num_inputs=num_inputs, num_scalars=num_scalars, num_frequencies=config.num_frequencies
        )  # fmt: skip
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.head_norm = nn.RMSNorm(config.width, eps=EPS)
        self.head = nn.Linear(config.width, num_outputs)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights from torch's generator: truncated normal 0.02, zero biases, orthogonal queries (nothing on ``meta``)."""
        if self.head.weight.is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=WEIGHT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Block):
                for queries_MD in module.down_queries_HMD:
                    nn.init.orthogonal_(queries_MD)

    def forward(
        self,
        points_BNd: Tensor,
        inputs_BNF: Tensor,
        scalars_BG: Tensor,
        mass_BN: Tensor | None = None,
        reducer: Reducer | None = None,
    ) -> Tensor:
        """Predict the outputs at the points.

        The blocks run in the precision of the caller's autocast; normalisation, lift and head in that of the weights (float32).
        Collective: over the ranks of ``reducer``, if any; no gradient through it.

        Args:
            points_BNd: Coordinates of the points of this rank; N may be 0 with a reducer.
            inputs_BNF: Nodal inputs.
            scalars_BG: Scalars of the problems.
            mass_BN: Lumped mass of the points, any unit; read only when ``config.mass_weighted``.
            reducer: All-reduce over the ranks that share the point set.
        Returns:
            Outputs ``(B, N, K)`` in physical units.
        Raises:
            ValueError: If shapes do not fit the model or a mass is needed and missing.
        """
        return self.encode(points_BNd, inputs_BNF, scalars_BG, mass_BN, reducer)[0]

    def encode(
        self,
        points_BNd: Tensor,
        inputs_BNF: Tensor,
        scalars_BG: Tensor,
        mass_BN: Tensor | None = None,
        reducer: Reducer | None = None,
    ) -> tuple[Tensor, list[Tokens]]:
        """Predict as ``forward`` does, and return the tokens of every block too, for ``decode``."""
        self._check_arguments(points_BNd, inputs_BNF, scalars=scalars_BG, mass=mass_BN, alone=reducer is None)
        bias_BN = self._log_mass(mass_BN, reducer)
        features_BNC = self._lifted(points_BNd, inputs_BNF, scalars_BG)
        all_tokens = []
        for block in self.blocks:
            features_BNC, tokens = block(features_BNC, bias_BN, reducer=reducer)
            all_tokens.append(tokens)
        return self._outputs(features_BNC), all_tokens

    def decode(self, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor, tokens: Sequence[Tokens]) -> Tensor:
        """Predict at further points of the problems that ``encode`` has seen, without changing its tokens.

        Collective: no; each rank decodes points of its own. A point that ``encode`` has seen gets the same outputs again.

        Args:
            points_BNd: Coordinates of the further points.
            inputs_BNF: Nodal inputs there.
            scalars_BG: Scalars of the problems.
            tokens: Tokens from ``encode``.
        Returns:
            Outputs ``(B, N, K)`` in physical units.
        """
        features_BNC = self._lifted(points_BNd, inputs_BNF, scalars_BG)
        for block, known in zip(self.blocks, tokens, strict=True):
            features_BNC = block.decode(features_BNC, known)
        return self._outputs(features_BNC)

    def _lifted(self, points_BNd: Tensor, inputs_BNF: Tensor, scalars_BG: Tensor) -> Tensor:
        unit = self.normaliser
        with torch.autocast(points_BNd.device.type, enabled=False):
            return self.lift(unit.points(points_BNd), unit.inputs(inputs_BNF), scalars_BG=unit.scalars(scalars_BG))

    def _outputs(self, features_BNC: Tensor) -> Tensor:
        with torch.autocast(features_BNC.device.type, enabled=False):
            return self.normaliser.physical_outputs(self.head(self.head_norm(features_BNC)))

    def _log_mass(self, mass_BN: Tensor | None, reducer: Reducer | None) -> Tensor | None:
        """Return the bias of the down attention, of mean zero on one process: a constant is immaterial but costs digits."""
        if mass_BN is None or not self.config.mass_weighted:
            return None
        bias_BN = torch.log(mass_BN)
        if reducer is None:
            bias_BN = bias_BN - bias_BN.mean(dim=1, keepdim=True)
        return bias_BN.to(self.head.weight.dtype)

    def _check_arguments(
        self, points: Tensor, inputs: Tensor, *, scalars: Tensor, mass: Tensor | None, alone: bool
    ) -> None:  # fmt: skip
        batch, num_points = points.shape[:2]
        expected = ((batch, num_points, self.dim), (batch, num_points, self.num_inputs), (batch, self.num_scalars))
        for name, tensor, shape in zip(("points", "inputs", "scalars"), (points, inputs, scalars), expected, strict=True):
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if mass is None and self.config.mass_weighted:
            raise ValueError("this model is mass-weighted: it needs the lumped mass of the points")
        if mass is not None and tuple(mass.shape) != (batch, num_points):
            raise ValueError(f"mass: expected shape {(batch, num_points)}, got {tuple(mass.shape)}")
        if num_points == 0 and alone:
            raise ValueError("the operator needs at least one point")


def _split_heads(projected: Tensor, parts: int, *, num_heads: int) -> tuple[Tensor, ...]:
    """View ``(B, N, parts C)`` as ``parts`` tensors ``(B, H, N, D)``."""
    head_width = projected.shape[-1] // (parts * num_heads)
    return projected.unflatten(-1, (parts, num_heads, head_width)).permute(2, 0, 3, 1, 4).unbind(0)


def _split_normalised(projected: Tensor, parts: int, *, num_heads: int) -> tuple[Tensor, ...]:
    """Split ``(B, N, parts C)`` into tensors ``(B, H, N, D)``, normalised in one pass in the order they lie in memory."""
    head_width = projected.shape[-1] // (parts * num_heads)
    normalised = normalise_heads(projected.unflatten(-1, (parts, num_heads, head_width)))
    return normalised.permute(2, 0, 3, 1, 4).unbind(0)


def _merge_heads(heads_BHND: Tensor) -> Tensor:
    """Return ``(B, H, N, D)`` as ``(B, N, C)``."""
    return heads_BHND.transpose(1, 2).flatten(start_dim=2)


def _check(config: OperatorConfig, dim: int, *, num_inputs: int, num_scalars: int, num_outputs: int) -> None:
    positive = {
        "width": config.width, "num_blocks": config.num_blocks, "num_heads": config.num_heads, "num_latents": config.num_latents,
        "ffn_ratio": config.ffn_ratio, "the dimension of space": dim, "the number of outputs": num_outputs,
    }  # fmt: skip
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"operator: {name} must be at least 1, got {value}")
    if min(config.num_frequencies, num_inputs, num_scalars) < 0:
        raise ValueError("operator: numbers of frequencies, inputs and scalars cannot be negative")
    if config.width % config.num_heads != 0:
        raise ValueError(f"operator: num_heads = {config.num_heads} must divide width = {config.width}")
