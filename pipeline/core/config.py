"""Settings as frozen dataclasses: reading from JSON and from `key=value`, printing, checking.

Each part keeps its settings beside its code; here is only what all of them share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pipeline.core.errors import ConfigError

C = TypeVar("C")

LONGEST = 100
"""Letters of a wrong value that an error repeats."""


def to_dict(config: object) -> dict[str, Any]:
    """Return the settings as plain JSON values, nested as the dataclasses are."""
    plain = dataclasses.asdict(config)  # pyright: ignore[reportArgumentType]
    return json.loads(json.dumps(plain))


def from_dict(kind: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Make settings from plain values; what is not given keeps its default.

    Raises:
        ConfigError: If a key is unknown (the nearest name is given) or a value has another
            type or is not one of the choices.
    """
    if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  from files
        raise ConfigError(
            f"{where or 'It'} is no group of settings: {short(values)}.", "Name each."
        )
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    for key in values:
        if key not in names:
            raise ConfigError(
                f"There is no setting {where}{str(key)[:LONGEST]}.",
                nearest(str(key)[:LONGEST], names),
            )
    parsed = {key: _parse(hints[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return kind(**parsed)
    except TypeError as error:
        missing = str(error).split("argument")[-1].strip(" s:")
        raise ConfigError(
            f"Settings {where or 'given'} lack {missing}.", "Write them in full."
        ) from error


def override(config: C, assignments: Sequence[str]) -> C:
    """Change settings by `name=value` or `part.name=value`, the values written as in JSON.

    Raises:
        ConfigError: As `from_dict`, or if an assignment has no `=`.
    """
    plain = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{assignment!r} sets nothing.", "Write name=value.")
        *parents, last = path.strip().split(".")
        level = plain
        for parent in parents:
            if not isinstance(level.get(parent), dict):
                raise ConfigError(f"There is no part {parent!r}.", nearest(parent, list(level)))
            level = level[parent]
        if last not in level:
            raise ConfigError(f"There is no setting {path}.", nearest(last, list(level)))
        try:
            level[last] = json.loads(text)
        except json.JSONDecodeError:
            level[last] = text
    return from_dict(type(config), plain)


def check_range(where: str, values: float | Sequence[float], low: float, high: float) -> None:
    """Pass if a setting, or each of its numbers, is within bounds.

    Raises:
        ConfigError: If one is not, or is not a number.
    """
    for value in values if isinstance(values, Sequence) else (values,):
        if not low <= value <= high:  # written so that nan fails too
            raise ConfigError(f"{where} cannot be {short(value)}.", f"Give {low:g} to {high:g}.")


def short(value: object) -> str:
    """Return a value as it is written, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # whole numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def nearest(name: str, names: Sequence[str]) -> str:
    """Word the remedy for a misspelt name."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    listing = ", ".join(sorted(names))
    return f"Did you mean {close[0]}? There are: {listing}." if close else f"There are: {listing}."


def _parse(kind: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where} is a group of settings, not {short(value)}.", "Name its parts."
            )
        return from_dict(typing.cast("type[Any]", kind), value, f"{where}.")
    if origin is Literal:
        if value not in args:
            raise ConfigError(
                f"{where} cannot be {short(value)}.",
                f"Choose one of: {', '.join(map(str, args))}.",
            )
        return value
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        items = args[:1] * len(value) if args[-1:] == (Ellipsis,) else args
        if len(items) == len(value):
            return tuple(
                _parse(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(items, value))
            )
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {
            _parse(args[0], key, f"a name in {where}"): _parse(args[1], one, f"{where}.{key}")
            for key, one in value.items()
        }
    elif kind is Any:
        return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    name = getattr(kind, "__name__", str(kind)) if origin is None else str(kind)
    raise ConfigError(f"{where} must be {name}, not {short(value)}.", "Write the value as in JSON.")
