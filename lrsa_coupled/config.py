"""Settings: defaults <- the case's ``config.toml`` <- ``--config FILE`` <- ``--set key=value``.

Names, types and ranges are checked. ``lrsa-coupled settings [CASE]`` prints every key with its type, value and meaning.
None is "not set"; files and ``--set`` write it ``none``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from lrsa_coupled.files import write_text_atomically
from lrsa_coupled.reading import converted, read_json, read_toml
from lrsa_coupled.settings import Section, hints, parse, setting, update

Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
Reuse = Literal["nothing", "setup", "preconditioner"]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
# Limits of what is allocated: files that anybody may have written ask for more than there is memory.
Size = Annotated[int, Meta(ge=1, le=1 << 16)]
Factor = Annotated[int, Meta(ge=1, le=256)]
Modes = Annotated[int, Meta(ge=0, le=1024)]
Resolution = Annotated[int, Meta(ge=1, le=10**6)]
Samples = Annotated[int, Meta(ge=1, le=10**7)]
Seed = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, lt=1)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]

VERSION = 2
"""Version of ``config.json``; the one before has none."""


@dataclass(frozen=True)
class ProblemConfig(Section):
    """The problems of ``generate``, ``solve``, ``bench`` and experiments."""

    seed: Seed | None = setting(None, "seed of the samples; none: 0 to generate, 3 for unseen samples")
    resolution: Resolution | None = setting(None, "resolution of the meshes; none: that of the case")
    rtol: Share | None = setting(None, "residual norm at the end over that of the zero guess; none: that of the case")

    @property
    def training_seed(self) -> int:
        """The seed, that of ``generate`` where none is set."""
        return 0 if self.seed is None else self.seed

    @property
    def test_seed(self) -> int:
        """The seed, that of unseen samples where none is set."""
        return 3 if self.seed is None else self.seed


@dataclass(frozen=True)
class GenerateConfig(Section):
    """Data generation."""

    samples: Samples = setting(100, "number of samples")
    samples_per_shard: Positive = setting(16, "samples of a full file")
    ranks_per_sample: Positive = setting(1, "ranks that share the mesh of a sample")
    method: str | None = setting(None, "method of the case; none: its default")
    guess: Literal["none", "previous", "nearest", "learned", "learning"] = setting(
        "none", "initial guess; none: the method's own; learning: what the samples before and models of them give"
    )
    model: str | None = setting(None, "folder of the model of guess=learned")
    samples_per_chain: Positive = setting(32, "samples solved one after the other when one follows from another")
    reuse: Reuse = setting("nothing", "reused along a chain: matrices and orderings; the preconditioner, too")
    recycle: Positive | None = setting(None, "dimension of the Krylov subspace that is recycled along a chain")
    sort: bool = setting(False, "order the samples such that neighbours in a chain are near each other")
    unsolved: bool = setting(False, "solve nothing: samples for training.loss=energy or residual")
    quantities: bool = setting(False, "keep the quantities of the case with each sample")


@dataclass(frozen=True)
class DataConfig(Section):
    """Reading of data sets."""

    memory_gib: NonNegativeFloat = setting(4.0, "memory of a rank for samples [GiB]; others are read when needed")


@dataclass(frozen=True)
class OperatorConfig(Section):
    """What every kind of operator reads; a kind adds its own settings."""

    kind: str = setting("", "kind of the operator")
    width: Size = setting(64, "features of a point")
    num_blocks: Factor = setting(4, "blocks one after the other")
    num_frequencies: Modes = setting(0, "octaves of sines and cosines of the coordinates among the features")
    weight_std: PositiveFloat | None = setting(0.02, "deviation of initial weights; none: the root of 1 / width")

    def variant(self, values: Mapping[str, Any], *, where: str) -> OperatorConfig:
        """Return the configuration of the kind in ``values``; ValueError for a setting of other kinds only."""
        operator = of_kind(self, values["kind"], where=where) if "kind" in values else self
        others = {name for kind in OPERATORS.values() for name in hints(kind)} - hints(operator).keys()
        for name in values:
            if name in others:
                raise ValueError(f"{where}: 'operator.{name}' does not apply to operator.kind = {operator.kind}")
        return operator

    @property
    def needs_grid(self) -> bool:
        """Whether the operator needs the points of a uniform grid in two dimensions."""
        return isinstance(self, FnoConfig) or (isinstance(self, AttentionConfig) and self.grid_convolution)

    @property
    def needs_mass(self) -> bool:
        """Whether the operator needs the lumped mass of the points."""
        return isinstance(self, LrsaConfig) and self.mass_weighted

    @property
    def takes_parts(self) -> bool:
        """Whether the operator can be evaluated on parts of the points: in chunks, over ranks, at further points."""
        return self.kind == "lrsa" and not self.needs_grid


@dataclass(frozen=True)
class AttentionConfig(OperatorConfig):
    """What the kinds with attention read besides."""

    num_heads: Size = setting(4, "heads of attention, which divide the width")
    grid_convolution: bool = setting(False, "a 3 x 3 convolution at the points of a uniform grid, all on one rank")


@dataclass(frozen=True)
class FeedForwardConfig(AttentionConfig):
    """What the kinds with feed-forward networks read besides."""

    ffn_ratio: Factor = setting(1, "hidden width of the feed-forward networks relative to the width")
    grid_skip: bool = setting(False, "add the result of the convolution to the features, too")


KIND = "or flare, transolver, full, fno, for comparison; other settings of the operator depend on the kind"


@dataclass(frozen=True)
class LrsaConfig(FeedForwardConfig):
    """Low-rank spatial attention, see ``operators/lrsa.py`` for the symbols."""

    kind: Literal["lrsa"] = setting("lrsa", KIND)
    num_latents: Size = setting(64, "latent tokens")
    mass_weighted: bool = setting(False, "make the down attention a quadrature, for meshes that are refined locally")
    score_gain: PositiveFloat = setting(1.0, "initial gain of normalised queries and keys; a larger one is sharper")
    tied: bool = setting(False, "for ablation: use the scores of the down attention for the up attention, too")
    latent_attention: bool = setting(True, "for ablation: false puts a feed-forward network in its place")
    qk_norm: bool = setting(True, "for ablation: normalise queries and keys")


@dataclass(frozen=True)
class FlareConfig(AttentionConfig):
    """FLARE, for comparison."""

    kind: Literal["flare"] = setting("flare", KIND)
    num_latents: Size = setting(64, "latent tokens")


@dataclass(frozen=True)
class TransolverConfig(FeedForwardConfig):
    """Transolver, for comparison."""

    kind: Literal["transolver"] = setting("transolver", KIND)
    num_latents: Size = setting(64, "slices")


@dataclass(frozen=True)
class FullConfig(FeedForwardConfig):
    """Full attention between all points, for comparison."""

    kind: Literal["full"] = setting("full", KIND)
    qk_norm: bool = setting(True, "normalise queries and keys")


@dataclass(frozen=True)
class FnoConfig(OperatorConfig):
    """Fourier neural operator on a uniform grid, for comparison."""

    kind: Literal["fno"] = setting("fno", KIND)
    num_modes: Annotated[int, Meta(ge=1, le=1024)] = setting(8, "modes kept of an axis")


KINDS = (LrsaConfig, FlareConfig, TransolverConfig, FullConfig, FnoConfig)
OPERATORS: Mapping[str, type[OperatorConfig]] = {kind.kind: kind for kind in KINDS}


@dataclass(frozen=True)
class TrainingConfig(Section):
    """Training."""

    epochs: Positive = setting(100, "passes through the training samples")
    minutes: PositiveFloat | None = setting(
        None, "wall time that learning rate, validations and end follow instead of epochs and validate_every [min]"
    )
    batch_size: Positive = setting(8, "samples of an optimiser step, over all ranks")
    micro_batch_size: Positive | None = setting(None, "samples a rank works on at a time; none: all of its share")
    num_points: Positive | None = setting(768, "points of a sample, drawn again for each step; none: all")
    optimizer: Literal["adamw", "muon"] = setting("adamw", "muon: for the matrices of the blocks, AdamW for the rest")
    learning_rate: PositiveFloat = setting(1e-3, "largest learning rate")
    weight_decay: NonNegativeFloat = setting(1e-5, "decoupled weight decay")
    schedule: Literal["one-cycle", "cosine"] = setting("one-cycle", "the rate rises for 30 or for 5 % of the steps")
    gradient_clip: PositiveFloat | None = setting(1.0, "largest norm of the gradient; none: any")
    loss: Literal["data", "energy", "residual"] = setting(
        "data", "data: the error; others need no solutions, but all points of a sample: its energy, or its residual"
    )
    labels: str | None = setting(None, "with such a loss: folder of solved samples, whose errors are added to it")
    gradient_weight: NonNegativeFloat = setting(0.0, "weight of the relative H1 seminorm of the error in the loss")
    fit_constrained: bool = setting(False, "fit outputs that Dirichlet conditions fix, too; errors never count them")
    initial: str | None = setting(None, "folder of a model of the same sizes with whose weights to begin")
    augment: bool = setting(False, "apply a random symmetry of the case to the samples of each step")
    ema: Share | None = setting(None, "decay per step of an average of the weights, which is validated and kept")
    precision: Precision = setting("fp32", "precision of the blocks")
    fp32_epochs: Natural = setting(0, "last epochs that run in float32 whatever the precision is")
    compile: bool = setting(False, "compile the operator by torch; needs a C++ compiler on a CPU")
    valid_fraction: Share = setting(0.05, "share of the samples kept for validation")
    validate_every: Positive = setting(5, "epochs between validations")
    patience: Positive | None = setting(
        None, "validations without a better error after which the run ends; none: never"
    )
    save_every: NonNegativeFloat = setting(20.0, "time between states to resume from [s]")
    seed: Seed = setting(0, "seed of the weights, the batches and the split")
    device: Device = setting("auto", "auto takes a GPU when there is one")
    tensorboard: bool = setting(False, "write the losses for TensorBoard, too")


@dataclass(frozen=True)
class GuessConfig(Section):
    """Use of the operator as an initial guess, and the safeguard of solves from guesses."""

    policy: Literal["always", "adaptive"] | None = setting(
        None, "none: adaptive; always for generate, which takes no other"
    )
    evaluate_at: Literal["vertices", "nodes"] = setting(
        "vertices", "vertices: there, prolonged and refined; or all nodes"
    )
    refine_above: NonNegativeFloat = setting(0.05, "quadratic part of the prolongation above which a node is evaluated")
    precision: Precision = setting("fp32", "precision of the blocks")
    device: Device = setting("auto", "auto takes a GPU when there is one, shared out over the ranks")
    max_ratio: NonNegativeFloat = setting(4.0, "a prediction beyond this multiple of the training range is rejected")
    max_iterations: Positive = setting(8, "nonlinear iterations from a guess before the default method takes over")
    chunk_size: Positive = setting(65536, "points that a rank with more works on at a time; bounds the memory")
    budget: PositiveFloat = setting(0.15, "share of the time of the default method that failed guesses may cost")
    max_distance: PositiveFloat = setting(4.0, "largest distance of inputs from their mean in training, in deviations")
    patience: Positive = setting(3, "failures in a row after which a guess is switched off, unless it pays even so")
    rest: Positive = setting(50, "solves for which a guess that failed is switched off")
    record: str | None = setting(None, "JSON file in which the measured costs outlive the run")


@dataclass(frozen=True)
class BenchConfig(Section):
    """Comparison of initial guesses."""

    samples: Positive = setting(10, "number of unseen samples")
    repeats: Positive = setting(1, "repeats of each timing, the median counts")
    coarse_meshes: Positive | None = setting(None, "coarser meshes of nested iteration, each half as fine as the next")


@dataclass(frozen=True)
class Config:
    """Everything a run depends on; written as ``config.json`` beside every output."""

    case: str | None = setting(None, "name of the case")
    options: dict[str, Any] = field(default_factory=dict, metadata={"doc": "options of the case"})
    problem: ProblemConfig = field(default_factory=ProblemConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    data: DataConfig = field(default_factory=DataConfig)
    operator: OperatorConfig = field(default_factory=LrsaConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    guess: GuessConfig = field(default_factory=GuessConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)


def load(base: Config, *, files: Sequence[Path] = (), assignments: Sequence[str] = ()) -> Config:
    """Override ``base`` by TOML files, then by ``key=value`` assignments such as ``training.precision=bf16``.

    ValueError for an unknown key (the nearest valid one is named), a value of another type or range, or no TOML.
    """
    config = base
    for path in files:
        config = update(config, read_toml(path), where=str(path))
    pairs = []
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set expects key=value, got '{assignment}'")
        pairs.append((key.strip(), parse(text.strip())))
    pairs.sort(key=lambda pair: pair[0] != "operator.kind")  # the kind says what settings there are
    for key, value in pairs:
        config = update(config, nested(key, value), where="--set")
    return config


def of_kind(operator: OperatorConfig, kind: str, *, where: str = "operator") -> OperatorConfig:
    """Return the configuration of an operator of another kind, with the settings that both have."""
    if not isinstance(kind, str) or kind not in OPERATORS:
        raise ValueError(f"{where}: 'operator.kind': expected one of {', '.join(OPERATORS)}, got {kind!r}")
    shared = hints(OPERATORS[kind]).keys() & hints(operator).keys() - {"kind"}
    return OPERATORS[kind](**{name: getattr(operator, name) for name in shared})


def over(config: Config, base: Config) -> Config:
    """Return a configuration whose settings of operator and training are those of ``base`` where they are defaults."""
    training = update(base.training, _changed(config.training), where="training")
    operator = config.operator
    if type(operator) is type(base.operator):
        operator = update(base.operator, _changed(operator), where="operator")
    return dataclasses.replace(config, operator=operator, training=training)


def _changed(section: Any) -> dict[str, Any]:
    default = type(section)()
    return {name: value for name, value in dataclasses.asdict(section).items() if value != getattr(default, name)}


def save(config: Config, folder: Path) -> None:
    """Write ``config.json`` into ``folder`` by atomic rename. Call on one rank."""
    content = {"version": VERSION} | dataclasses.asdict(config)
    write_text_atomically(folder / "config.json", json.dumps(content, indent=1) + "\n")


def read(path: Path) -> Config:
    """Read a ``config.json``; of one of version 1 what training reads. ValueError when it holds anything else."""
    where, content = str(path), read_json(path)
    version = content.pop("version", 1)
    if version not in (1, VERSION):
        raise ValueError(f"{path}: format version {version!r}, expected 1 or {VERSION}: install the matching release")
    for name in ("operator", "training", "guess"):
        converted(content.setdefault(name, {}), dict, where=f"{where}: {name}")
    if version != 1:
        content["guess"].pop("max_residual", None)  # of version 0.2, which 0.3 has replaced
        return update(Config(), content, where=where)
    config = update(Config(), {name: content[name] for name in ("options", "data") if name in content}, where=where)
    operator = operator_from_card(content["operator"], version=1, where=where)
    training = training_from_card(content["training"], version=1, where=where)
    return dataclasses.replace(config, operator=operator, training=training)


def operator_from_card(values: Mapping[str, Any], *, version: int, where: str) -> OperatorConfig:
    """Return the operator of a model card; one of version 1 holds the settings of all kinds, which had no effect."""
    if version == 1:
        kind = of_kind(LrsaConfig(), values.get("kind", "lrsa"), where=where)
        values = _not_set({name: values[name] for name in values if name in hints(kind)}, "weight_std")
    return update(LrsaConfig(), values, where=where, prefix="operator.")


def training_from_card(values: Mapping[str, Any], *, version: int, where: str) -> TrainingConfig:
    """Return the settings of training of a model card."""
    if version == 1:
        sentinels = ("micro_batch_size", "num_points", "gradient_clip", "initial", "ema", "patience")
        values = _not_set(values, *sentinels)
    return update(TrainingConfig(), values, where=where, prefix="training.")


def _not_set(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Take 0 and the empty text of version 1 for None."""
    return {key: None if key in names and not value else value for key, value in values.items()}


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return ``{"a": {"b": value}}`` for the key ``a.b``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
