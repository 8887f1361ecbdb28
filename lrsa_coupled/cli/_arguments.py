"""The parser and the arguments that verbs share.

A flag whose destination has a dot, such as ``generate.samples``, is a setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, final

from lrsa_coupled import mpi
from lrsa_coupled.config import Config
from lrsa_coupled.settings import describe, nearest, parse


class HelpPrinted(SystemExit):
    """Raised after ``--help``; any other ``SystemExit`` is an error, of a user's case say."""


@final
class Parser(argparse.ArgumentParser):
    """Raises usage errors, with the nearest option or choice, instead of leaving; prints help on rank 0 only."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        others = any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions)
        known = [*self._option_string_actions]
        for text in () if others else args or ():
            flag = text.partition("=")[0]
            if flag.startswith("--") and not any(option.startswith(flag) for option in known):
                self.error(f"unknown option '{flag}'{_near(flag, known)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"invalid choice '{value}'{nearest(value, [*action.choices])}")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see '{self.prog} --help')")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpPrinted(status)

    def print_help(self, file: Any = None) -> None:
        if mpi.rank() == 0:
            super().print_help(file)


def _near(flag: str, known: Sequence[str]) -> str:
    """Return the settings of the name of an unknown flag, or the nearest of the known flags, in brackets."""
    name = flag.removeprefix("--").replace("-", "_")
    settings = [key for key, *_ in describe(Config()) if "--set" in known and key.rpartition(".")[2] == name]
    text = " or ".join(f"'--set {key}=...'" for key in settings)
    return f" (did you mean {text}?)" if text else nearest(flag, known)


@final
class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Says what an option is when it is not given, unless its help does."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        said = "default" in text or not action.option_strings or action.nargs == 0
        return (
            text if said or action.default in (None, [], argparse.SUPPRESS) else f"{text}; {action.default} by default"
        )


def listed(indices: Sequence[int], most: int = 8) -> str:
    """Return the first indices as text, for a line."""
    return ", ".join(map(str, indices[:most])) + (" ..." if len(indices) > most else "")


def common_arguments() -> Parser:
    """Return the arguments of every verb."""
    common = Parser(add_help=False)
    text = "TOML file of settings; repeatable"
    common.add_argument("--config", type=Path, action="append", default=[], metavar="FILE", help=text)
    text = "one setting, such as training.epochs=50; repeatable; 'lrsa-coupled settings' prints all"
    common.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    common.add_argument("-v", "--verbose", action="count", default=0, help="print more")
    common.add_argument("-q", "--quiet", action="store_true", help="print results, warnings and errors only")
    common.add_argument("--verbose-errors", action="store_true", help="show where an error comes from")
    return common


def add_case(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", metavar="CASE", help="name of a case, or path to a case.py or its folder")


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data set")


def add_out(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)


def add_preset(parser: argparse.ArgumentParser, default: str = "none by default") -> None:
    text = f"a table of presets in the case's config.toml, such as smoke or full; {default}"
    parser.add_argument("--preset", metavar="NAME", help=text)


def add_settings(parser: argparse.ArgumentParser, *keys: str) -> None:
    """Add a flag for each setting: ``generate.ranks_per_sample`` is ``--ranks-per-sample``."""
    docs = {key: (doc, value) for key, value, _, doc in describe(Config())}
    for key in keys:
        name = key.rpartition(".")[2].replace("_", "-")
        doc, value = docs[key]
        text = doc.replace("none:", "by default") if "none:" in doc else f"{doc}; {str(value).lower()} by default"
        parser.add_argument(f"--{name}", dest=key, type=parse, metavar=name[0].upper(), help=text)
