"""Settings as frozen dataclasses: a field's type and :func:`setting` say what it may be; it is checked and offered on the command line by that.

lr: float = setting(0.2, above=0)        model: str = setting("resattn", choices=MODELS)
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin


class _Allowed(NamedTuple):
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False
    multiple: int = 0

    def holds(self, x: float) -> bool:
        inside = math.isfinite(x) and (self.low < x if self.without_low else self.low <= x)
        inside = inside and (x < self.high if self.without_high else x <= self.high)
        return inside and not (self.multiple and x % self.multiple)

    def describe(self) -> str:
        ends = f" {'above' if self.without_low else 'at least'} {self.low}" if math.isfinite(self.low) else ""
        if math.isfinite(self.high):
            ends = f" in {'(' if self.without_low else '['}{self.low}, {self.high}{')' if self.without_high else ']'}"
        return "number" + ends + (f" and a multiple of {self.multiple}" if self.multiple else "")


def setting(
    default: Any,
    *,
    choices: Iterable[str] = (),
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    below: float | None = None,
    multiple: int = 0,
) -> Any:
    """A field: its default, the texts it may be, the ends of its numbers (``low``, ``high`` belong to them, ``above``, ``below`` do not)."""
    ends = (low if above is None else above, high if below is None else below, above is not None, below is not None)
    return dataclasses.field(default=default, metadata={"allowed": _Allowed(tuple(choices), *ends, multiple)})


def check(settings: Any) -> None:
    """Check every field of a frozen dataclass, and unify what counts as equal: 1 and 1.0, a list and a tuple, a path and its text.

    A ValueError names the field, the value given, and what is allowed.
    """
    for field in dataclasses.fields(settings):
        allowed = field.metadata.get("allowed", _Allowed())
        value = _checked(field.name, getattr(settings, field.name), field.type, allowed)
        object.__setattr__(settings, field.name, value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def add_options(parser: argparse.ArgumentParser, settings: type, without: tuple[str, ...] = ()) -> None:
    """An option for each field of a dataclass; those not given are None. A tuple takes its values one after another."""
    for field in dataclasses.fields(settings):
        if field.name not in without:
            option, (kinds, n) = f"--{field.name.replace('_', '-')}", _kinds(field.type)
            shown = " ".join(map(str, field.default)) if n else field.default
            if kinds == (bool,):
                parser.add_argument(option, action="store_true", default=None)
            else:
                parser.add_argument(option, type=_reader(kinds), nargs=n, help=f"default {shown}")


def given(options: dict[str, Any], settings: type) -> dict[str, Any]:
    """Those of a command's options that are fields of ``settings`` and were given."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in options.items() if name in names and value is not None}


def _kinds(hint: Any) -> tuple[tuple[type, ...], int | None]:
    """The types a value may have; for tuples those of one item, and how many there are."""
    if get_origin(hint) is tuple:
        return get_args(hint)[:1], len(get_args(hint))
    return get_args(hint) or (hint,), None


def _checked(name: str, value: Any, hint: Any, allowed: _Allowed) -> Any:
    kinds, n = _kinds(hint)
    if n is not None:
        if not isinstance(value, (tuple, list)) or len(value) != n:
            raise ValueError(f"{name} must be {n} numbers, got {value!r}")
        return tuple(_checked(name, item, kinds[0], allowed) for item in value)
    if kinds == (str,) and allowed.choices:
        check_choice(name, value, allowed.choices)
    if str in kinds and isinstance(value, (str, Path)) and (not allowed.choices or value in allowed.choices):
        return str(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        fits = float in kinds or (int in kinds and isinstance(value, int))
        if fits and allowed.holds(value):
            return float(value) if float in kinds else value
    elif type(value) in kinds and not isinstance(value, str):  # True, None, settings within settings
        return value
    raise ValueError(f"{name} must be {_describe(kinds, allowed)}, got {value!r}")


def _describe(kinds: tuple[type, ...], allowed: _Allowed) -> str:
    texts = list(map(repr, allowed.choices)) or ["a text"]
    words = {str: texts, bool: ["True", "False"], NoneType: ["None"], float: [f"a {allowed.describe()}"]}
    words[int] = [f"a whole {allowed.describe()}"]
    parts = [word for kind in kinds for word in words.get(kind, [kind.__name__])]
    return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _reader(kinds: tuple[type, ...]) -> Callable[[str], Any]:
    """What makes a value of a command line's text."""
    if bool in kinds:
        return _yes_or_no
    if str in kinds and int in kinds:
        return lambda text: int(text) if text.lstrip("-").isdigit() else text
    return kinds[0]


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"must be yes or no, got {text!r}")
    return text == "yes"
