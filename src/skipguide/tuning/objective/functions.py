"""Metrics that users write: "file.py:function", "module:function", or a function in Python."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
from numpy.typing import NDArray

# f(frames (F, H, W, 3) uint8, prompt or None, frames per second or None) -> larger is better
Function = Callable[[NDArray[np.uint8], str | None, float | None], float]
FORM = "f(frames, prompt, fps)"


@dataclass(frozen=True)
class UserMetric:
    """A function that measures a clip.

    Args:
        name: under which its values are kept.
        written: as the user wrote it, for messages.
        sha256: of its source, so that a changed function is noticed; "" where there is none.
    """

    name: str
    written: str
    function: Function
    sha256: str


def load(text: str | Function) -> UserMetric:
    """Find the function of a metric.

    Raises:
        ValueError: if there is no such file, module or function, importing it fails, or it does not
            take (frames, prompt, fps).
    """
    if not isinstance(text, str):
        return _check(describe(text), text)
    where, _, name = text.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(
            "a metric of one's own must be file.py:function or module:function, but got"
            f" {text!r}. Write it so."
        )
    module = _load_file(Path(where), text) if where.endswith(".py") else _load_module(where, text)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [
            known for known, one in vars(module).items()
            if inspect.isfunction(one) and one.__module__ == module.__name__
        ]  # fmt: skip
        has = f"It has {', '.join(functions)}." if functions else "It has no functions."
        raise ValueError(
            f"a metric must be a function, but {where} has no function {name!r}. {has}"
        )
    return _check(text, cast(Function, function))


def describe(metric: str | Function) -> str:
    """Return how a metric is written; a function by its module and name."""
    if isinstance(metric, str):
        return metric
    return f"{getattr(metric, '__module__', '')}:{_name(metric)}"


def _name(function: Function) -> str:
    return getattr(function, "__name__", type(function).__name__).strip("<>")


def _load_file(path: Path, text: str) -> ModuleType:
    path = path.expanduser()
    if not path.is_file():
        raise ValueError(
            f"a metric {text!r} needs the file {path}, but there is none. Check the name."
        )
    name = f"skipguide_metric_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a module up by its name
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise ValueError(_failed(text, error)) from error
    return module


def _load_module(name: str, text: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(_failed(text, error)) from error


def _failed(text: str, error: BaseException) -> str:
    return (
        f"a metric must be importable, but importing {text!r} failed with"
        f" {describe_failure(error)}. Correct it."
    )


def describe_failure(error: BaseException) -> str:
    """Return what code of a user raised, as "KeyError: 'x'"; of one without words its kind."""
    try:
        words = str(error).strip()
    except Exception:
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _check(text: str, function: Function) -> UserMetric:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # of C
        signature = None
    if signature is not None:
        try:
            signature.bind(None, None, None)
        except TypeError as error:
            raise ValueError(
                f"a metric must be called as {FORM}, but {text} takes {signature}: {error}. Give"
                " it these three parameters."
            ) from None
    return UserMetric(_name(function), text, function, _hash_source(function))


def _hash_source(function: Function) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()
