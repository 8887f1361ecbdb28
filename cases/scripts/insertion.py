"""Statements put into the text of a script, whose file is left as it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping


def edited(source: str, *, after: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Return a script with lines behind some of its statements, and other values of some names of its top level.

    Args:
        source: The script.
        after: Lines by the text, up to its first bracket, of the statement that they follow, such as ``problem.solve``.
        values: Expressions by the name that they are assigned to.

    Raises:
        ValueError: If no statement begins with a text or assigns a name, or several do.
    """
    lines = source.splitlines()
    found = _found(source, after, values)
    for node, text, is_value in sorted(found, key=lambda item: item[0].lineno, reverse=True):
        if is_value:
            lines[node.lineno - 1 : node.end_lineno] = [text]
        else:
            lines[node.end_lineno : node.end_lineno] = [" " * node.col_offset + line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _found(source: str, after: Mapping[str, str], values: Mapping[str, str]) -> list[tuple[ast.stmt, str, bool]]:
    tree = ast.parse(source)
    starts = [(node, ast.unparse(node).partition("(")[0]) for node in _statements(tree)]
    top = [(node, ast.unparse(node.targets[0])) for node in tree.body if isinstance(node, ast.Assign)]
    found = []
    for wanted, candidates, is_value in ((after, starts, False), (values, top, True)):
        for name, text in wanted.items():
            nodes = [node for node, its in candidates if its == name]
            if len(nodes) != 1:
                raise ValueError(f"expected one statement '{name}' in the script, got {len(nodes)}")
            found.append((nodes[0], f"{name} = {text}" if is_value else text, is_value))
    return found


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.stmt))
