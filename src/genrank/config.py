"""Typed configuration: nested frozen dataclasses from plain values, and back.

Every setting of genrank is a field of a frozen, keyword-only dataclass that stands beside the class it configures.
This module is the one way from TOML, JSON or `--set path=value` to such dataclasses: unknown keys name the nearest
valid one, wrong types name what was expected.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from genrank.documents import parse_toml
from genrank.errors import LONGEST_SHOWN, ConfigError, InputError, shown

Config = TypeVar("Config")


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint for an unknown name: `did you mean 'x'?`, or the list of what there is."""
    known = sorted(options)
    close = difflib.get_close_matches(name[:LONGEST_SHOWN], known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "there is: " + (", ".join(known) or "nothing")


def build(cls: type[Config], values: Mapping[str, Any], *, where: str, error: type[InputError] = ConfigError) -> Config:
    """An instance of the dataclass `cls` from nested plain values.

    `where` names the origin (a file, a flag) in messages. Raises `error` for unknown or missing keys, wrong types, and
    for a ValueError raised by the class's own validation. A class may say in `retired` which settings it had once, and
    the only value of each that still means something: files that hold this value are read as ever.
    """
    values = _without_retired(cls, values, where, error)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise error(f"{where}: unknown key {shown(key)}; {nearest(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise error(f"{where}: the key {name!r} is missing; add {name} = …")
    resolved = {key: _value(hints[key], value, f"{where}: {key}", error) for key, value in values.items()}
    try:
        return cls(**resolved)
    except ValueError as problem:
        raise error(f"{where}: {problem}") from None


def _without_retired(
    cls: type[Any], values: Mapping[str, Any], where: str, error: type[InputError]
) -> Mapping[str, Any]:
    retired: Mapping[str, Any] = getattr(cls, "retired", {})
    for key in retired.keys() & values.keys():
        if values[key] != retired[key]:
            raise error(
                f"{where}: {key} = {shown(values[key])} is no setting any more; "
                "remove it, or use the version of genrank that wrote it"
            )
    return {key: value for key, value in values.items() if key not in retired}


def to_dict(config: Any) -> Any:
    """Nested plain values of a configuration, every default written out; `build` reads them back."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    return config


def override(config: Config, assignments: Sequence[str]) -> Config:
    """`config` with `path.to.key=value` assignments applied; values are TOML literals, or bare strings."""
    values = to_dict(config)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment[:LONGEST_SHOWN]}: expected path=value, as in --set model.width=64")
        _assign(config, values, path.strip(), _literal(text.strip()))
    where = "--set " + " ".join(assignments)[:LONGEST_SHOWN] if assignments else "config"
    return build(type(config), values, where=where)


def has_setting(config: Any, path: str) -> bool:
    """Whether `config` has the setting `path.to.key`."""
    for name in path.split("."):
        if isinstance(config, Mapping):
            return True  # free keys
        if not (dataclasses.is_dataclass(config) and name in (field.name for field in dataclasses.fields(config))):
            return False
        config = getattr(config, name)
    return True


def _assign(config: Any, values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    path = path[:LONGEST_SHOWN]
    for parent in parents:
        if parent not in values:
            raise ConfigError(f"--set {path}: unknown key {shown(parent)}; {nearest(parent, values)}")
        config = config[parent] if isinstance(config, Mapping) else getattr(config, parent)
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {path}: {parent!r} is a value, not a group of settings; set it directly")
    if isinstance(config, Mapping):  # free keys, such as task weights
        values[last] = value
        return
    if last not in values:
        raise ConfigError(f"--set {path}: unknown key {shown(last)}; {nearest(last, values)}")
    if dataclasses.is_dataclass(getattr(config, last)):
        raise ConfigError(f"--set {path}: {last!r} is a group of settings; set one of {', '.join(values[last])}")
    values[last] = value


def _literal(text: str) -> Any:
    try:
        found = parse_toml(f"value = {text}")
    except ValueError:
        return None if text == "null" else text
    return found["value"] if set(found) == {"value"} else text


def _value(hint: Any, value: Any, where: str, error: type[InputError]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where, error)
    if origin is Literal:
        return _choice(arguments, value, where, error)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "kinds")):
        if not isinstance(value, Mapping):
            raise error(f"{where}: expected a table of settings, found {shown(value)}")
        hint = _of_its_kind(hint, value, where, error)
        return build(hint, value, where=where, error=error)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise error(f"{where}: expected a list, found {shown(value)}")
        return tuple(_value(arguments[0], element, f"{where}[{i}]", error) for i, element in enumerate(value))
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise error(f"{where}: expected a table, found {shown(value)}")
        return {
            key: _value(arguments[1], element, f"{where}.{key[:LONGEST_SHOWN]}", error)
            for key, element in value.items()
        }
    if hint is Any:
        return value
    return _scalar(hint, value, where, error)


def _of_its_kind(cls: Any, values: Mapping[str, Any], where: str, error: type[InputError]) -> Any:
    """`cls`, or where it is a base with `kinds`, the subclass that the key `kind` names."""
    if dataclasses.is_dataclass(cls):
        return cls
    if "kind" not in values:
        raise error(f"{where}: the key 'kind' is missing; add kind = …")
    return cls.kinds[_choice(tuple(cls.kinds), values["kind"], f"{where}: kind", error)]


def _choice(choices: tuple[Any, ...], value: Any, where: str, error: type[InputError]) -> Any:
    if value in choices:
        return value
    known = [str(choice) for choice in choices]
    near = nearest(value if isinstance(value, str) else shown(value), known)
    raise error(f"{where}: {shown(value)} is not a choice; {near} (choices: {', '.join(known)})")


def _scalar(hint: type, value: Any, where: str, error: type[InputError]) -> Any:
    if isinstance(value, int) and value.bit_length() > 63:
        raise error(f"{where}: expected a number of at most 18 digits, found {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where}: expected a finite number, found {value}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise error(f"{where}: expected {hint.__name__}, found {shown(value)} ({type(value).__name__})")


def _of_kind(options: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Of several dataclasses with a field `kind`, the one whose kind the value names; else all options."""
    kinds = {option: getattr(option, "kind", None) for option in options}
    if not isinstance(value, Mapping) or not all(kinds.values()):
        return options
    return tuple(option for option, kind in kinds.items() if kind == value.get("kind")) or options


def _union(options: tuple[Any, ...], value: Any, where: str, error: type[InputError]) -> Any:
    if value is None and type(None) in options:
        return None
    failures = []
    for option in _of_kind(options, value):
        if option is type(None):
            continue
        try:
            return _value(option, value, where, error)
        except InputError as failure:
            failures.append(failure)
    raise failures[-1]
