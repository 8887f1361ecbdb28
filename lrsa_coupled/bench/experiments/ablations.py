"""LRSA against itself without a part or with other numbers of latent tokens, trained alike on the same data."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lrsa_coupled.bench.experiments.operators import add_arguments, compare_variants, table
from lrsa_coupled.bench.rows import Results
from lrsa_coupled.config import Config, LrsaConfig, OperatorConfig, of_kind
from lrsa_coupled.schema import Schema

__all__ = ["ON_RANKS", "add_arguments", "run", "table"]

ON_RANKS = False
STUDY = "ablations"
LATENTS = (16, 32, 64, 128, 256)


def run(args: Namespace, config: Config) -> Results:
    """Train and test, see ``compare_variants``."""
    return compare_variants(STUDY, variants, config, args)


def variants(operator: OperatorConfig, schema: Schema) -> dict[str, OperatorConfig]:
    """Return the variants by name, each with one change, LRSA itself first."""
    lrsa = of_kind(operator, "lrsa")
    assert isinstance(lrsa, LrsaConfig)
    changes: dict[str, Mapping[str, Any]] = {
        "lrsa": {},
        "tied": {"tied": True},
        "no latent attention": {"latent_attention": False},
        "no QK norm": {"qk_norm": False},
        "not mass-weighted" if lrsa.mass_weighted else "mass-weighted": {"mass_weighted": not lrsa.mass_weighted},
    }
    changes |= {f"{latents} tokens": {"num_latents": latents} for latents in LATENTS if latents != lrsa.num_latents}
    return {name: dataclasses.replace(lrsa, **change) for name, change in changes.items()}
