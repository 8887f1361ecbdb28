"""One block of Low-Rank Spatial Attention: points to few latent tokens, mixing there, back to the points.

Shapes: B batch, N points of a chunk, C width, H heads, M latent tokens, D = C / H.

Source: Yang, Xin, Du, Liu (2026), Low-Rank Spatial Attention, arXiv 2604.03582.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lrsa_coupled.config import LrsaConfig
from lrsa_coupled.operators.attention import merge, normalise, pool_partially, softmax_attention
from lrsa_coupled.operators.chunks import over_chunks
from lrsa_coupled.operators.layers import (
    FeedForward,
    PointBlock,
    SelfAttention,
    merge_heads,
    normed_linear,
    split_heads,
)
from lrsa_coupled.operators.reducer import Reducer

Tokens = tuple[Tensor, Tensor]
"""Keys and values ``(B, H, M, D)`` of the up attention of a block: all that a further point needs."""


@final
class LRSABlock(PointBlock):
    """One LRSA block; attribute names follow the steps compress (down), process (latent), reconstruct (up).

    The keys and values of the down attention and the queries of the up attention are projections of the same normalised
    features; their separate weights are stacked into one matrix. The projected features are normalised without a gain,
    see ``attention.py``.
    """

    def __init__(self, config: LrsaConfig) -> None:
        super().__init__()
        width, num_heads, head_width = config.width, config.num_heads, config.width // config.num_heads
        self.num_heads, self.tied, self.qk_norm = num_heads, config.tied, config.qk_norm
        self.parts = ("keys", "values") if config.tied else ("keys", "queries", "values")
        self.point_norm = nn.RMSNorm(width)
        self.point_projection = nn.Linear(width, len(self.parts) * width, bias=False)
        self.down_queries_HMD = nn.Parameter(torch.empty(num_heads, config.num_latents, head_width))
        self.down_gain_D = nn.Parameter(torch.full((head_width,), config.score_gain))
        self.down_output = nn.Linear(width, width)
        self.first_ffn = FeedForward(width, config.ffn_ratio)
        self.latent_attention = (  # the network in its place has as many weights
            SelfAttention(width, num_heads, qk_norm=config.qk_norm)
            if config.latent_attention
            else FeedForward(width, 2)
        )
        self.second_ffn = FeedForward(width, config.ffn_ratio)
        self.up_norm = nn.RMSNorm(width)
        self.up_projection = nn.Linear(width, (1 if config.tied else 2) * width, bias=False)
        self.up_gain_D = None if config.tied else nn.Parameter(torch.full((head_width,), config.score_gain))
        self.up_output = nn.Linear(width, width)
        self.point_ffn = FeedForward(width, config.ffn_ratio, convolve=config.grid_convolution, skip=config.grid_skip)

    def forward(self, features_BNC: Tensor, bias_BN: Tensor | None, shape: tuple[int, ...] | None) -> Tensor:
        return self._whole(features_BNC, bias_BN, shape)[0]

    def encode(
        self, features_BNC: Tensor, bias_BN: Tensor | None, *, reducer: Reducer | None, chunk_size: int | None
    ) -> tuple[Tensor, Tokens]:
        """Map features ``(B, N, C)`` to such features and the tokens they went through.

        N may be 0 with a reducer. ``bias_BN`` is added to the scores of the points in the down attention; a chunk has
        ``chunk_size`` points. Collective: over the ranks of ``reducer``, if any.
        """
        if reducer is None and chunk_size is None:
            return self._whole(features_BNC, bias_BN, None)
        tensors = [features_BNC] if bias_BN is None else [features_BNC, bias_BN]
        pooled_BHMD = merge(over_chunks(self._pool_partially, tensors, size=chunk_size), reducer)
        tokens = self._mix(pooled_BHMD.to(features_BNC.dtype))
        return over_chunks(self.decode, [features_BNC], size=chunk_size, shared=tokens), tokens

    def decode(self, features_BNC: Tensor, *tokens: Tensor) -> Tensor:
        """Map the features of points with tokens that are known already."""
        queries_BHND = self._heads(features_BNC, "keys" if self.tied else "queries")
        return self._reconstruct(features_BNC, queries_BHND, tokens, None)

    def _whole(
        self, features_BNC: Tensor, bias_BN: Tensor | None, shape: tuple[int, ...] | None
    ) -> tuple[Tensor, Tokens]:
        """Map the features of all points, with one projection."""
        projected = normed_linear(features_BNC, self.point_norm, self.point_projection)
        *scored, values_BHND = self._split(projected, len(self.parts), scored=len(self.parts) - 1)
        queries_BHMD = self._queries().expand(len(features_BNC), -1, -1, -1)
        bias = None if bias_BN is None else bias_BN[:, None, None, :]
        pooled_BHMD = softmax_attention(queries_BHMD, scored[0], values_BHND, bias=bias, bounded=self.qk_norm)
        tokens = self._mix(pooled_BHMD)
        return self._reconstruct(features_BNC, scored[-1], tokens, shape), tokens

    def _pool_partially(self, features_BNC: Tensor, bias_BN: Tensor | None = None) -> Tensor:
        keys_BHND, values_BHND = self._heads(features_BNC, "keys"), self._heads(features_BNC, "values")
        return pool_partially(self._queries(), keys_BHND, values_BHND=values_BHND, bias_BN=bias_BN)

    def _queries(self) -> Tensor:
        queries_HMD = normalise(self.down_queries_HMD) if self.qk_norm else self.down_queries_HMD
        return queries_HMD * self.down_gain_D

    def _split(self, projected: Tensor, parts: int, *, scored: int) -> tuple[Tensor, ...]:
        """Split into heads; the first ``scored`` parts enter scores."""
        return split_heads(projected, parts, num_heads=self.num_heads, normalised=scored if self.qk_norm else 0)

    def _heads(self, features_BNC: Tensor, part: str) -> Tensor:
        """Apply one of the projections that share a matrix, and split into heads."""
        place, width = self.parts.index(part), features_BNC.shape[-1]
        rows = slice(place * width, (place + 1) * width)
        projected = normed_linear(features_BNC, self.point_norm, self.point_projection, rows)
        return self._split(projected, 1, scored=int(part != "values"))[0]

    def _mix(self, pooled_BHMD: Tensor) -> Tokens:
        """Let the latent tokens interact; return what the points need of them."""
        latents_BMC = self.down_output(merge_heads(pooled_BHMD))
        latents_BMC = self.second_ffn(self.latent_attention(self.first_ffn(latents_BMC)))
        projected = normed_linear(latents_BMC, self.up_norm, self.up_projection)
        if self.up_gain_D is None:
            queries_HMD = self._queries().to(projected.dtype)
            return queries_HMD.expand(len(projected), -1, -1, -1), self._split(projected, 1, scored=0)[0]
        up_keys_BHMD, up_values_BHMD = self._split(projected, 2, scored=1)
        return up_keys_BHMD * self.up_gain_D, up_values_BHMD

    def _reconstruct(
        self, features_BNC: Tensor, queries_BHND: Tensor, tokens: tuple[Tensor, ...], shape: tuple[int, ...] | None
    ) -> Tensor:
        keys_BHMD, values_BHMD = tokens
        spread_BHND = softmax_attention(queries_BHND, keys_BHMD, values_BHMD, bounded=self.qk_norm)
        return self.point_ffn(features_BNC + self.up_output(merge_heads(spread_BHND)), shape)
