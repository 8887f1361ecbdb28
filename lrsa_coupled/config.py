"""Settings: defaults <- the case's ``config.toml`` <- ``--config FILE`` <- ``--set key=value``.

Names, types and ranges are checked. ``lrsa-coupled settings [CASE]`` prints every key with its type, value and meaning.
None is "not set"; files and ``--set`` write it ``none``.
"""

# ruff: noqa: RUF009 - setting returns a field

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lrsa_coupled.files import read_json, read_toml, write_text_atomically

Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, lt=1)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]

TRAINING_SEED, TEST_SEED = 0, 3
VERSION = 2
"""Version of ``config.json``; the one before has none."""


def setting(default: Any, doc: str) -> Any:
    """Return a field with its one line of documentation."""
    return field(default=default, metadata={"doc": doc})


class Section:
    """Base of the groups of settings: values are checked whenever one is made."""

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            converted(getattr(self, name), hint, f"'{type(self).__name__}.{name}'")


@dataclass(frozen=True)
class ProblemConfig(Section):
    """The problems of ``generate``, ``solve``, ``bench`` and experiments."""

    seed: Natural | None = setting(None, "seed of the samples; 0 for generate, 3 for all that uses unseen samples")
    resolution: Positive | None = setting(None, "resolution of the meshes; the case's own")
    rtol: Share | None = setting(None, "residual norm at the end relative to that of the zero guess; the case's own")

    @property
    def training_seed(self) -> int:
        """The seed, that of ``generate`` where none is set."""
        return TRAINING_SEED if self.seed is None else self.seed

    @property
    def test_seed(self) -> int:
        """The seed, that of unseen samples where none is set."""
        return TEST_SEED if self.seed is None else self.seed


@dataclass(frozen=True)
class GenerateConfig(Section):
    """Data generation."""

    samples: Positive = setting(100, "number of samples")
    samples_per_shard: Positive = setting(16, "samples of a full file")
    ranks_per_sample: Positive = setting(1, "ranks that share the mesh of a sample")
    method: str | None = setting(None, "method of the case; its default one")
    guess: Literal["none", "previous", "nearest", "learned"] = setting(
        "none", "initial guess: the method's own, the sample before in the chain, the nearest one made, or the model's"
    )
    model: str | None = setting(None, "folder of the model of guess=learned")
    samples_per_chain: Positive = setting(32, "samples solved one after the other when one follows from another")
    reuse: Literal["nothing", "setup", "preconditioner"] = setting(
        "nothing",
        "reused along a chain on one mesh: solver, matrices and orderings; also the preconditioner while it pays",
    )
    recycle: Positive | None = setting(None, "dimension of the Krylov subspace that is recycled along a chain")
    sort: bool = setting(False, "order the samples such that neighbours in a chain are near each other")


@dataclass(frozen=True)
class DataConfig(Section):
    """Reading of data sets."""

    memory_gib: NonNegativeFloat = setting(
        4.0, "memory of a rank for samples [GiB]; those of a larger set are read when needed"
    )


@dataclass(frozen=True)
class OperatorConfig(Section):
    """The operator, see ``operators/lrsa.py`` for the symbols."""

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
    weight_std: float | None = 0.02
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
class TrainingConfig(Section):
    """Training."""

    epochs: Positive = setting(100, "passes through the training samples")
    batch_size: Positive = setting(8, "samples of an optimiser step, over all ranks")
    micro_batch_size: Positive | None = setting(
        None, "samples a rank works on at a time, gradients are added up; all of its share"
    )
    num_points: Positive | None = setting(768, "points of a sample, drawn again for each step; none: all")
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "muon: Muon for the matrices of the blocks, AdamW for the rest"
    )
    learning_rate: PositiveFloat = setting(1e-3, "largest learning rate")
    weight_decay: NonNegativeFloat = setting(1e-5, "decoupled weight decay")
    schedule: Literal["one-cycle", "cosine"] = setting(
        "one-cycle", "learning rate: rises for 30 or for 5 % of the steps"
    )
    gradient_clip: PositiveFloat | None = setting(1.0, "largest norm of the gradient")
    gradient_weight: NonNegativeFloat = setting(0.0, "weight of the relative H1 seminorm of the error in the loss")
    fit_constrained: bool = setting(
        False, "fit the outputs that Dirichlet conditions fix, too; errors never count them"
    )
    initial: str | None = setting(None, "folder of a model of the same case and sizes with whose weights to begin")
    augment: bool = setting(False, "apply a random symmetry of the case to the samples of each step")
    ema: Share | None = setting(None, "decay per step of an average of the weights, which is validated and kept")
    precision: Precision = setting("fp32", "precision of the blocks")
    fp32_epochs: Natural = setting(0, "last epochs that run in float32 whatever the precision is")
    compile: bool = setting(False, "compile the operator by torch; needs a C++ compiler on a CPU")
    valid_fraction: Share = setting(0.05, "share of the samples kept for validation")
    validate_every: Positive = setting(5, "epochs between validations")
    patience: Positive | None = setting(None, "validations without a better error after which the run ends; never")
    save_every: NonNegativeFloat = setting(20.0, "time between states to resume from [s]")
    seed: Natural = setting(0, "seed of the weights, the batches and the split")
    device: Device = setting("auto", "auto takes a GPU when there is one")
    tensorboard: bool = setting(False, "write the losses for TensorBoard, too")


@dataclass(frozen=True)
class GuessConfig(Section):
    """Use of the operator as an initial guess, and the safeguard of solves from guesses."""

    policy: Literal["always", "adaptive"] | None = setting(
        None, "use the guess always, or where the record expects a gain; always for generate, adaptive for the rest"
    )
    evaluate_at: Literal["vertices", "nodes"] = setting(
        "vertices", "vertices: there, prolonged, and again at the nodes where that is inaccurate; nodes: at every node"
    )
    refine_above: NonNegativeFloat = setting(
        0.05,
        "quadratic part of the prolongation, in standard deviations of the outputs, above which a node is evaluated",
    )
    precision: Precision = setting("fp32", "precision of the blocks")
    device: Device = setting("auto", "auto takes a GPU when there is one, shared out over the ranks")
    max_ratio: NonNegativeFloat = setting(4.0, "a prediction beyond this multiple of the training range is rejected")
    max_iterations: Positive = setting(8, "nonlinear iterations from a guess before the default method takes over")
    chunk_size: Positive = setting(65536, "points that a rank with more works on at a time; bounds the memory")
    budget: PositiveFloat = setting(0.15, "share of the time of the default method that failed guesses may cost")
    max_distance: PositiveFloat = setting(
        4.0, "largest distance of the inputs from their mean in training, in standard deviations"
    )
    max_residual: PositiveFloat = setting(0.9, "largest residual norm of a guess relative to that of the zero guess")
    patience: Positive = setting(3, "failures in a row after which a guess is switched off")
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

    case: str = setting("", "name of the case")
    options: dict[str, Any] = field(default_factory=dict, metadata={"doc": "options of the case"})
    problem: ProblemConfig = field(default_factory=ProblemConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    data: DataConfig = field(default_factory=DataConfig)
    operator: OperatorConfig = field(default_factory=OperatorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    guess: GuessConfig = field(default_factory=GuessConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)


def load(base: Config, *, files: Sequence[Path] = (), assignments: Sequence[str] = ()) -> Config:
    """Override ``base`` by TOML files, then by ``key=value`` assignments such as ``training.precision=bf16``.

    Raises:
        ValueError: For an unknown key (the nearest valid one is named), a value of another type or range, or no TOML.
    """
    config = base
    for path in files:
        config = update(config, read_toml(path), where=str(path))
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set expects key=value, got '{assignment}'")
        config = update(config, _nested(key.strip(), parse(text.strip())), where="--set")
    return config


def update[T](config: T, values: Mapping[str, Any], *, where: str, prefix: str = "") -> T:
    """Return a dataclass with ``values`` (nested mappings for nested dataclasses) replaced, names and types checked."""
    changes: dict[str, Any] = {}
    types_by_name = hints(type(config))
    for key, value in values.items():
        name = prefix + key
        if key not in types_by_name:
            raise ValueError(f"{where}: unknown key '{name}'{nearest(name, all_keys(config, prefix))}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: '{name}' is a table of keys, got {value!r}")
            changes[key] = update(current, value, where=where, prefix=f"{name}.")
        else:
            new = converted(value, types_by_name[key], f"{where}: '{name}'")
            changes[key] = current | new if isinstance(current, dict) else new
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass by name."""
    found = typing.get_type_hints(kind, include_extras=True)
    return {f.name: found[f.name] for f in dataclasses.fields(kind)}


def converted(value: Any, hint: Any, what: str) -> Any:
    """Return a value as the type ``hint``; ``none`` is None where that is allowed. ValueError says what was expected."""
    optional = types.NoneType in typing.get_args(hint)
    try:
        return msgspec.convert(None if optional and value == "none" else value, hint)
    except msgspec.ValidationError as error:
        raise ValueError(f"{what}: expected {type_text(hint)}, got {value!r}") from error


def type_text(hint: Any) -> str:
    """Return a type as a user reads it, such as ``int >= 1 or none``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(type_text(part) for part in typing.get_args(hint))
    if hint is types.NoneType:
        return "none"
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is Annotated:
        kind, meta = typing.get_args(hint)
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = [f"{sign} {bound}" for name, sign in signs.items() if (bound := getattr(meta, name)) is not None]
        return f"{type_text(kind)} {' and '.join(bounds)}"
    if typing.get_origin(hint) is dict:
        return "a table of keys"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain dictionaries."""
    return dataclasses.asdict(config)


def save(config: Config, folder: Path) -> None:
    """Write ``config.json`` into ``folder`` by atomic rename. Call on one rank."""
    write_text_atomically(folder / "config.json", json.dumps({"version": VERSION} | to_dict(config), indent=1) + "\n")


def read(path: Path) -> Config:
    """Read a ``config.json``; ValueError when it holds anything else. One of before is converted."""
    content = read_json(path)
    if content.pop("version", 1) == 1:
        content = _from_version_1(content)
    return update(Config(), content, where=str(path))


def operator_from_card(values: Mapping[str, Any], *, version: int, where: str) -> OperatorConfig:
    """Return the operator of a model card; cards before version 2 hold the settings of all kinds, and 0 for one that is not set."""
    if version == 1:
        values = _not_set(values, "weight_std")
    return update(OperatorConfig(), values, where=where)


def training_from_card(values: Mapping[str, Any], *, version: int, where: str) -> TrainingConfig:
    """Return the settings of training of a model card; those before version 2 hold 0 or an empty text for what is not set."""
    if version == 1:
        values = _not_set(values, *TRAINING_SENTINELS)
    return update(TrainingConfig(), values, where=where)


TRAINING_SENTINELS = ("micro_batch_size", "num_points", "gradient_clip", "initial", "ema", "patience")
"""Settings of training that 0 or an empty text leaves unset in files of version 1."""


def _from_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a ``config.json`` of version 1."""
    content = {name: dict(values) if isinstance(values, Mapping) else values for name, values in content.items()}
    generate, bench, gate = (content.get(name, {}) for name in ("generate", "bench", "gate"))
    content.pop("gate", None)
    generate.pop("target", None)  # the name of the case says it
    renamed = {"strategy": "method", "start": "guess", "keep": "reuse"}
    problem = _not_set({key: generate.pop(key) for key in ("seed", "resolution") if key in generate}, "resolution")
    generate = _not_set({renamed.get(key, key): value for key, value in generate.items()}, "method", "model", "recycle")
    if generate.get("guess") == "classical":
        generate["guess"] = "none"
    bench = {"coarse_meshes" if key == "coarser" else key: value for key, value in bench.items()}
    bench = {key: value for key, value in bench.items() if key not in ("seed", "resolution", "rtol")}
    content |= {"problem": problem, "generate": generate, "bench": _not_set(bench, "coarse_meshes")}
    content["guess"] = content.get("guess", {}) | _not_set(gate, "record")
    content["training"] = _not_set(content.get("training", {}), *TRAINING_SENTINELS)
    content["operator"] = _not_set(content.get("operator", {}), "weight_std")
    return content


def _not_set(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: None if key in names and not value else value for key, value in values.items()}


@dataclass(frozen=True)
class Setting:
    """One setting as ``lrsa-coupled settings`` prints it."""

    key: str
    value: Any
    type_text: str
    doc: str


def describe(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a configuration in order."""
    for item in dataclasses.fields(config):
        value, key = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from describe(value, f"{key}.")
        else:
            yield Setting(key, value, type_text(hints(type(config))[item.name]), item.metadata.get("doc", ""))


def all_keys(config: Any, prefix: str = "") -> list[str]:
    """List the dotted names of the settings."""
    return [item.key for item in describe(config, prefix)]


def nearest(name: str, names: Sequence[str]) -> str:
    """Return `` (did you mean '...'?)`` for the nearest of ``names``, or the list of all when none is near."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else f" (known: {', '.join(names)})"


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def parse(text: str) -> Any:
    """Return a value written as in TOML, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
