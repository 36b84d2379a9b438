"""Settings as frozen dataclasses: a field's type and :func:`setting` say what it may be; it is checked and offered on the command line by that.

lr: float = setting(0.2, above=0)        model: str = setting("resattn", choices=MODELS)
"""

import argparse
import dataclasses
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "low": operator.ge,
    "high": operator.le,
    "above": operator.gt,
    "below": operator.lt,
    "multiple": lambda x, of: x % of == 0,
}


def setting(default: Any, *, choices: Iterable[str] = (), **limits: float) -> Any:
    """A field: its default, the texts it may be, and the limits of its numbers: ``low``, ``high``, ``above``, ``below``, ``multiple``."""
    return dataclasses.field(default=default, metadata={"choices": tuple(choices), **limits})


def check(settings: Any) -> None:
    """Check every field of a frozen dataclass, and unify what counts as equal: 1 and 1.0, a list and a tuple, a path and its text.

    A ValueError names the field, the value given, and what is allowed.
    """
    for field in dataclasses.fields(settings):
        value = checked(field.name, getattr(settings, field.name), field.type, **field.metadata)
        object.__setattr__(settings, field.name, value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def add_options(parser: argparse.ArgumentParser, settings: type, without: tuple[str, ...] = ()) -> None:
    """An option for each field of a dataclass, explained by its docstring; those not given are None. A tuple takes its values one
    after another."""
    meanings = _meanings(settings)
    for field in dataclasses.fields(settings):
        if field.name not in without:
            option, (kinds, n) = f"--{field.name.replace('_', '-')}", _kinds(field.type)
            about = meanings.get(field.name, field.name.replace("_", " ")).rstrip(".")
            if kinds == (bool,):
                parser.add_argument(option, action="store_true", default=None, help=about.replace("%", "%%"))
                continue
            texts = field.metadata.get("choices", ())
            about += "" if all(text in about for text in texts) else f"; {', '.join(texts)}"
            about += "; yes or no" if bool in kinds else ""
            default = " ".join(map(str, field.default)) if n else field.default
            about += "" if default is None else f" (default {default})"
            parser.add_argument(option, type=_reader(kinds), nargs=n, help=about.replace("%", "%%"))


def _meanings(settings: type) -> dict[str, str]:
    """What the docstring of a dataclass says of its attributes, by name and without markup."""
    plain = re.sub(r":\w+:(?=`)|`", "", inspect.getdoc(settings) or "")
    items = re.findall(r"^ {4}(\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", plain, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in items for name in names.split(", ")}


def given(options: dict[str, Any], settings: type) -> dict[str, Any]:
    """Those of a command's options that are fields of ``settings`` and were given."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in options.items() if name in names and value is not None}


def _kinds(hint: Any) -> tuple[tuple[type, ...], int | None]:
    """The types a value may have; for tuples those of one item, and how many there are."""
    if get_origin(hint) is tuple:
        return get_args(hint)[:1], len(get_args(hint))
    return get_args(hint) or (hint,), None


def checked(name: str, value: Any, hint: Any, choices: Iterable[str] = (), **limits: float) -> Any:
    """``value`` in the form that a field of that type holds; ValueError unless it is of the type, among the choices and within the
    limits of :func:`setting`."""
    kinds, n = _kinds(hint)
    if n is not None:
        if not isinstance(value, (tuple, list)) or len(value) != n:
            raise ValueError(f"{name} must be {n} numbers, got {value!r}")
        return tuple(checked(name, item, kinds[0], choices, **limits) for item in value)
    if kinds == (str,) and choices:
        check_choice(name, value, choices)
    if str in kinds and isinstance(value, (str, Path)) and (not choices or value in choices):
        return str(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        fits = float in kinds or (int in kinds and isinstance(value, int))
        if fits and math.isfinite(value) and all(_HOLDS[key](value, end) for key, end in limits.items()):
            return float(value) if float in kinds else value
    elif type(value) in kinds and not isinstance(value, str):  # True, None, settings within settings
        return value
    words = {str: ", ".join(map(repr, choices)) or "a text", bool: "True, False", NoneType: "None"}
    words |= {float: f"a {_number(limits)}", int: f"a whole {_number(limits)}"}
    raise ValueError(f"{name} must be {' or '.join(words.get(kind, kind.__name__) for kind in kinds)}, got {value!r}")


def _number(limits: Mapping[str, float]) -> str:
    low, high = limits.get("low", limits.get("above")), limits.get("high", limits.get("below"))
    text = "number"
    if high is not None:
        text += f" in {'(' if 'above' in limits else '['}{low}, {high}{')' if 'below' in limits else ']'}"
    elif low is not None:
        text += f" {'above' if 'above' in limits else 'at least'} {low}"
    return text + (f" and a multiple of {limits['multiple']}" if "multiple" in limits else "")


def _reader(kinds: tuple[type, ...]) -> Callable[[str], Any]:
    """What makes a value of a command line's text; where it cannot, the text goes to :func:`check`."""
    if bool in kinds:
        return lambda text: {"yes": True, "True": True, "no": False, "False": False}.get(text, text)
    if str in kinds and int in kinds:
        return lambda text: int(text) if text.lstrip("-").isdigit() else text
    return kinds[0]
