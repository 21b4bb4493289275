"""Every command has one frozen config dataclass, and every field of it is a flag.

    @dataclass(frozen=True)
    class DetectConfig:
        source: tuple[Path, ...] = option("pictures and folders", positional=True)
        conf: float = option("drop boxes below this confidence", default=0.25)

    def main(argv=None):
        config = parse(DetectConfig, argv, "python -m yolov2.detect", "Find objects in pictures.")

    if __name__ == "__main__":
        raise SystemExit(run(main))

Field types understood: bool, int, float, str, Path, Literal, tuples of these (written ``1,2,3``), and each of
them ``| None`` (written ``none``). A field without a default is a required flag, a positional one takes the
arguments that have no flag. `option` is `dataclasses.field` with its help text in front.
"""

import argparse
import dataclasses
import signal
import sys
import threading
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from yolov2.errors import UserError

Config = TypeVar("Config")

# how torch says it: on a GPU, on a CPU under Linux, under Windows (there is no common exception)
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
METAVAR = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line, without a screen of all flags above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the flags\n")


def option(help: str, default: Any = dataclasses.MISSING, positional: bool = False) -> Any:
    """A dataclass field with its help text; required where no default is given."""
    return dataclasses.field(default=default, metadata={"help": help, "positional": positional})


def parse(config_class: type[Config], argv: Sequence[str] | None, prog: str, description: str) -> Config:
    """Read a frozen config dataclass from the command line.

    Parameters
    ----------
    config_class : dataclass type
        Field ``max_det`` is the flag ``--max-det``; a bool also has ``--no-...``. Its help text is
        ``metadata["help"]``. A ValueError or UserError of ``__post_init__`` is reported like a wrong flag.
    argv : sequence of str, optional
        Arguments without the program's name; None reads ``sys.argv``.
    prog, description : str
        Shown by ``--help``.

    Returns
    -------
    config_class

    Raises
    ------
    SystemExit
        Status 0 after ``--help``, 2 for a flag that is unknown, missing or has no meaning.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        # The dataclass holds the defaults: the namespace has only the flags that were given.
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30),
    )
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        kind, optional = _without_none(hints[field.name])
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = default is dataclasses.MISSING
        note = "required" if required else f"default: {_as_text(default)}"
        flag = "--" + field.name.replace("_", "-")
        help = f"{field.metadata.get('help', '')} ({note})".strip().replace("%", "%%")
        if field.metadata.get("positional"):
            item = typing.get_args(kind)[0]
            help = field.metadata["help"]
            parser.add_argument(field.name, type=item, nargs="+", metavar=field.name.upper(), help=help)
        elif kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, required=required, help=help)
        else:
            convert, metavar = _reader(kind, optional), _metavar(kind)
            parser.add_argument(flag, type=convert, metavar=metavar, required=required, help=help)
    given = vars(parser.parse_args(argv))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        return config_class(**given)
    except (ValueError, UserError) as error:
        parser.error(str(error))


def run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Call ``main(argv)`` and return the exit status; what the user got wrong is one line, not a traceback.

    Returns
    -------
    int
        What `main` returns (None is 0), 2 after a UserError, a file that the system refuses or too little
        memory, 130 after Ctrl-C.
    """
    formatted, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return main(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        print("error: out of memory; try a smaller --batch or --imgsz", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, what a shell reports
    finally:
        warnings.formatwarning = formatted


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as commands print it: without the line of the source that it comes from."""
    return f"warning: {message}\n"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that what it changes changes as a whole."""
    if threading.current_thread() is not threading.main_thread():  # no other thread is sent signals
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """``X | None`` -> (X, True), anything else -> (itself, False)."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"{hint}: only a union with None can be a flag")
    return kinds[0], True


def _reader(kind: Any, optional: bool) -> Callable[[str], Any]:
    """The function that reads a value of type `kind` from its text."""

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        try:
            return _read(kind, text)
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"expected {_metavar(kind)}, got {text!r}") from None

    return read


def _read(kind: Any, text: str) -> Any:
    if typing.get_origin(kind) is Literal:
        return {str(choice): choice for choice in typing.get_args(kind)}[text]
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        parts = text.split(",") if text else []
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(parts)
        return tuple(_read(k, part.strip()) for k, part in zip(kinds, parts, strict=True))
    return kind(text)


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    if typing.get_origin(kind) is tuple:
        return ",".join("..." if k is Ellipsis else _metavar(k) for k in typing.get_args(kind))
    return METAVAR[kind]


def _as_text(value: Any) -> str:
    """A value as it would be written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(_as_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
