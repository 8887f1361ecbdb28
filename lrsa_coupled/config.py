"""Configuration: dataclasses <- TOML file <- ``--set key=value``; strict in names and types.

The defaults below hold for any case; ``cases/<name>/config.toml`` overrides them for a case, ``--config`` and ``--set`` for a run.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lrsa_coupled.files import read_toml, write_text_atomically

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class GenerateConfig:
    """Data generation: number and seed of the samples, resolution (0: the case's own), samples of a full shard, ranks that share a sample.

    ``strategy`` names the classical strategy, the case's first when empty. ``start``: ``classical`` solves by it from its own start;
    ``previous`` starts from the sample made before in the chain; ``nearest`` starts from the nearest sample made before and falls back on the
    case's first strategy when that fails; ``learned`` does the same from the prediction of the operator in ``model``.

    Cases on one mesh make it and its forms once. Their samples are solved in chains of ``samples_per_chain`` as soon as one follows from
    another: ``keep=setup`` keeps solver, matrices and symbolic factorisations, ``keep=preconditioner`` also the preconditioner or
    factorisation while it pays, ``recycle`` a Krylov subspace of that dimension (0: none). ``sort`` orders samples such that neighbours in
    a chain are near each other. ``target=correction`` makes residuals of Krylov runs and the errors that belong to them, for ``NeuralPC``.
    """

    samples: int = 100
    seed: int = 0
    resolution: int = 0
    samples_per_shard: int = 16
    ranks_per_sample: int = 1
    strategy: str = ""
    start: Literal["classical", "previous", "nearest", "learned"] = "classical"
    model: str = ""
    samples_per_chain: int = 32
    keep: Literal["nothing", "setup", "preconditioner"] = "nothing"
    recycle: int = 0
    sort: bool = False
    target: Literal["solution", "correction"] = "solution"


@dataclass(frozen=True)
class DataConfig:
    """Reading of data sets: memory for samples, of each rank [GiB]; of a larger set samples are read when they are needed."""

    memory_gib: float = 4.0


@dataclass(frozen=True)
class OperatorConfig:
    """Operator: ``lrsa`` (``operators/lrsa.py`` has the symbols) or one of its rivals, which read the sizes that they have.

    ``num_modes`` is for ``fno``. ``grid_convolution`` puts a 3 x 3 convolution before the network at the points of every attention block, for points
    of a uniform grid in two dimensions, all on one rank; ``grid_skip`` adds its result to the features, too, as FLARE does anyway. ``mass_weighted``
    makes the down attention of LRSA a quadrature over the domain, so that a prediction hardly moves when some of the mesh is refined. ``weight_std``
    is the deviation of the initial weights of linear layers, 0 for one over the root of their width: with the 0.02 of the LRSA paper, whose widths
    are 128 and more, little gets through narrow blocks at first. ``score_gain`` is the initial gain, learned later, of the normalised queries and
    keys between points and tokens of LRSA: a larger one is a sharper attention. The last three take a part out of LRSA, for ablations: ``tied`` uses
    the scores of the down attention for the up attention too, ``latent_attention=false`` puts a feed-forward network in its place, ``qk_norm=false``
    leaves out that norm.
    """

    kind: Literal["lrsa", "flare", "transolver", "full", "fno"] = "lrsa"
    width: int = 64
    num_blocks: int = 4
    num_heads: int = 4
    num_latents: int = 64
    ffn_ratio: int = 1
    num_frequencies: int = 0
    mass_weighted: bool = False
    num_modes: int = 12
    grid_convolution: bool = False
    grid_skip: bool = False
    weight_std: float = 0.02
    score_gain: float = 1.0
    tied: bool = False
    latent_attention: bool = True
    qk_norm: bool = True

    @property
    def needs_grid(self) -> bool:
        """Whether the operator needs the points of a uniform grid."""
        return self.kind == "fno" or self.grid_convolution

    @property
    def takes_parts(self) -> bool:
        """Whether the operator can be evaluated on parts of the points: in chunks, over ranks, at further points."""
        return self.kind == "lrsa" and not self.grid_convolution


@dataclass(frozen=True)
class TrainingConfig:
    """Training; ``num_points`` is the size of the random point subset of a sample, 0 for all points of every sample.

    ``batch_size`` counts the samples of an optimiser step over all ranks; a rank works on ``micro_batch_size`` of its share at a time (0:
    on all) and adds up the gradients. With ``num_points=0`` samples of different sizes are worked on one after the other, without padding.
    ``valid_fraction`` is the share of the samples kept for validation; the run ends early after ``patience`` validations without a better
    error (0: never). ``gradient_weight`` weighs the relative H1 seminorm of the error in the loss. ``fit_constrained`` counts the outputs
    that Dirichlet conditions fix in the loss too; errors never count them, as their exact values replace the prediction. ``augment`` applies
    a reflection or turn of the case, drawn for each step, to its samples.
    ``optimizer=muon`` uses Muon (Jordan et al., 2024) for the matrices of the blocks and AdamW for the rest. ``ema`` is the decay a step
    of an average of the weights, which is then what is validated and kept (0: none). ``compile`` needs a C++ compiler on a CPU. The last
    ``fp32_epochs`` run in float32 whatever ``precision`` is: at errors below 1 % the rounding of bfloat16 is seen. ``initial``: folder of a model of
    the same case and sizes with whose weights and units to begin. ``save_every``: time between states to resume from [s].
    """

    epochs: int = 100
    batch_size: int = 8
    micro_batch_size: int = 0
    num_points: int = 768
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    gradient_clip: float = 1.0
    gradient_weight: float = 0.0
    fit_constrained: bool = False
    initial: str = ""
    augment: bool = False
    ema: float = 0.0
    precision: Precision = "fp32"
    fp32_epochs: int = 0
    compile: bool = False
    valid_fraction: float = 0.05
    validate_every: int = 5
    patience: int = 0
    save_every: float = 20.0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tensorboard: bool = False


@dataclass(frozen=True)
class GuessConfig:
    """Use of the operator as initial guess.

    ``evaluate_at``: ``vertices`` evaluates at the mesh vertices and prolongs to the node set, then evaluates anew the nodes where the
    quadratic part of the prolongation is above ``refine_above`` times the standard deviation of the outputs in training; ``nodes``
    evaluates at every node, as is done too where cells are no simplices, and by operators that need all points at once, on the first rank.
    ``max_ratio``: a prediction beyond this multiple of the training range is rejected. ``max_iterations``: Newton iterations granted to the
    guess before the classical strategy takes over. ``device``: ``auto`` takes a GPU when there is one, shared out over the ranks. A rank
    with more points than ``chunk_size`` works on as many at a time, which bounds the memory.
    """

    evaluate_at: Literal["vertices", "nodes"] = "vertices"
    refine_above: float = 0.05
    precision: Precision = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_ratio: float = 4.0
    max_iterations: int = 8
    chunk_size: int = 65536


@dataclass(frozen=True)
class GateConfig:
    """Which start a solve takes, see ``guess/gate.py``.

    ``budget`` is the share of the classical time that starts gone wrong may cost: of a solve where an iteration is cheaper, else of the run. A start
    is not used when a scalar of the problem, or the root mean square of a nodal input, is further than ``max_distance`` standard deviations from its
    mean in training, nor when its residual norm exceeds ``max_residual`` times that of the cold start (with an energy: when it does not lower it). A
    choice that failed ``patience`` times in a row, or that the record shows to be slower, is switched off, the former for ``rest`` solves.
    ``record`` names a JSON file in which the costs outlive the run.
    """

    budget: float = 0.15
    max_distance: float = 4.0
    max_residual: float = 0.9
    patience: int = 3
    rest: int = 50
    record: str = ""


@dataclass(frozen=True)
class BenchConfig:
    """Benchmark: unseen samples, their seed, resolution (0: the case's own), tolerance ``rtol`` of the residual norm relative to that of the zero start
    (0: the case's own), repeats of each timing (the median counts), number of coarser meshes for nested iteration, each half as fine as the next.
    """

    samples: int = 10
    seed: int = 1
    resolution: int = 0
    rtol: float = 0.0
    repeats: int = 1
    coarser: int = 0


@dataclass(frozen=True)
class Config:
    """Everything a run depends on; written as ``config.json`` beside every output. ``options`` are the case's own."""

    case: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    data: DataConfig = field(default_factory=DataConfig)
    operator: OperatorConfig = field(default_factory=OperatorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    guess: GuessConfig = field(default_factory=GuessConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)


def load(base: Config, *, files: Sequence[Path] = (), assignments: Sequence[str] = ()) -> Config:
    """Override ``base`` by TOML files, then by ``key=value`` assignments such as ``training.precision=bf16``.

    Raises:
        ValueError: For an unknown key (the nearest valid one is named), a value of the wrong type, or a file that is not TOML.
    """
    config = base
    for path in files:
        config = update(config, read_toml(path), where=str(path))
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set expects key=value, got '{assignment}'")
        config = update(config, _nested(key.strip(), _parse(text.strip())), where="--set")
    return config


def update[T](config: T, values: Mapping[str, Any], *, where: str, prefix: str = "") -> T:
    """Return the dataclass ``config`` with ``values`` (nested mappings for nested dataclasses) replaced, names and types checked."""
    hints = typing.get_type_hints(type(config))
    changes = {}
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"{where}: unknown key '{prefix}{key}'{nearest(prefix + key, all_keys(config, prefix))}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: '{prefix}{key}' is a table of keys, got {value!r}")
            changes[key] = update(current, value, where=where, prefix=f"{prefix}{key}.")
        else:
            value = _checked(value, hints[key], f"{where}: '{prefix}{key}'")
            changes[key] = {**current, **value} if isinstance(current, dict) else value
    return dataclasses.replace(config, **changes)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain dictionaries."""
    return dataclasses.asdict(config)


def save(config: Config, folder: Path) -> None:
    """Write ``config.json`` into ``folder`` by atomic rename. Call on one rank."""
    write_text_atomically(folder / "config.json", json.dumps(to_dict(config), indent=1) + "\n")


def all_keys(config: Any, prefix: str = "") -> list[str]:
    """List the dotted names of the leaves of a configuration."""
    keys = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        keys += all_keys(value, f"{prefix}{f.name}.") if dataclasses.is_dataclass(value) else [prefix + f.name]
    return keys


def nearest(name: str, names: Sequence[str]) -> str:
    """Return `` (did you mean '...'?)`` for the nearest of ``names``, or the list of all when none is near."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else f" (known: {', '.join(names)})"


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(value: Any, hint: Any, what: str) -> Any:
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{what} is a table of keys, got {value!r}")
        return dict(value)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ValueError(f"{what} must be one of {', '.join(choices)}, got {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{what} must be of type {hint.__name__}, got {value!r}")
    return value
