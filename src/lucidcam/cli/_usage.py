"""How words of a command line are parsed, and how usage errors are answered: in one line, by the flags of the command at hand."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from lucidcam.errors import LucidcamError, OptionError, unknown
from lucidcam.options import catalogue
from lucidcam.utils.flags import Flag, flags_of_group
from lucidcam.utils.text import printable_lines

PATHS_AND_FLAGS = {"ignore_unknown_options": True, "allow_extra_args": False}
"""Context settings of commands that also take the flags of methods: flags they do not know come among the paths."""


ALIASES = {"size": "input_size", "threshold": "decision_threshold", "preprocess": "input_size", "format": "data_format"}
"""What the library calls otherwise than the command line."""


EXPECTATIONS = {
    r"valid integer": "a whole number",
    r"valid (number|float)": "a number",
    r"greater than or equal to (-?\d+)": r"at least \1",
    r"less than or equal to (-?\d+)": r"at most \1",
    r"in the range (\S+?)\.?$": r"\1",
}
"""What a parser's message means, by a part of it, in older and newer versions of typer."""

WINDOW = "--grey-window"
"""The option that `--window` and `--level` are short for."""

WORDS = "lucidcam.words"
"""Where the context keeps the words that were typed."""


class Command(TyperCommand):
    """A command whose words after `--` are paths, whatever they begin with, and that takes `-json` for a mistyped `--json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line.

        Raises:
            OptionError: a flag is written with a single dash, or mistyped. That is said before anything else.
        """
        end = args.index("--") if "--" in args else len(args)
        flags = flags_of(self)
        for word in args[:end]:
            if not word.startswith("--") and f"-{word}" in flags:
                raise OptionError(unknown("option", word, flags))
        _check_flags(self, args[:end], methods=bool(ctx.ignore_unknown_options))
        if ctx.ignore_unknown_options:
            # Flags of methods come among the paths, so that a path must not look like one.
            args = args[: end + 1] + [f"./{word}" if word.startswith("-") and word != "-" else word for word in args[end + 1 :]]
        if WINDOW in flags:
            args = [*_with_window(args[:end]), *args[end:]]
        ctx.meta[WORDS] = list(args)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of ours becomes one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except LucidcamError as error:
            print_error(in_flags(str(error), self, ctx.meta.get(WORDS, ())))
            raise typer.Exit(2) from None


def _check_flags(command: Any, words: Sequence[str], methods: bool) -> None:
    """Check that every flag is one of the command's, or, with `methods`, an option of some method: which one is checked later.

    Raises:
        OptionError: for the first flag that is neither.
    """
    flags = flags_of(command)
    valued = {flag for parameter in command.params if not getattr(parameter, "is_flag", False) for flag in parameter.opts}
    own = [f"--{name.replace('_', '-')}" for name in _method_options()] if methods else []
    known = {*flags, *own, *(flag.replace("--", "--no-", 1) for flag in own), *(("--window", "--level") if WINDOW in flags else ())}
    remaining = iter(words)
    for word in remaining:
        flag, equals, _ = word.partition("=")
        if flag in valued:
            if not equals:
                next(remaining, None)
        elif flag.startswith("--") and flag.replace("_", "-") not in known and flag not in known:
            raise OptionError(unknown("option", flag, [*flags, *(_flags_of_methods(words) if methods else ())]))


def _with_window(words: list[str]) -> list[str]:
    """Words in which `--window WIDTH --level LEVEL` is `--grey-window WIDTH,LEVEL`.

    `--window` alone stays what it is: methods have an option of that name.

    Raises:
        OptionError: a level without a window, or beside the long option.
    """
    width, level = _value_of(["--window"], words), _value_of(["--level"], words)
    if level is None:
        return words
    if width is None:
        raise OptionError("--level goes with --window: --window WIDTH --level LEVEL, in the values of the files.")
    if _value_of([WINDOW], words) is not None:
        raise OptionError(f"{WINDOW} and --window with --level say the same; give one of the two.")
    kept: list[str] = []
    remaining = iter(words)
    for word in remaining:
        flag, equals, _ = word.partition("=")
        if flag not in ("--window", "--level"):
            kept.append(word)
        elif not equals:
            next(remaining, None)
    return [*kept, f"{WINDOW}={width},{level}"]


def print_error(message: str) -> None:
    """Print `error: …` to standard error, in one line however wide the terminal is."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False, emoji=False, soft_wrap=True).print(f"[red]error:[/red] {escape(printable_lines(message))}")


def flags_of(command: Any) -> list[str]:
    """Every flag of a command that begins with two dashes, as `--help` lists them."""
    words = [word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)]
    return [word for word in words if word.startswith("--")] + ["--help"]


def expanded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace each parameter whose type is a dataclass by that dataclass's fields, each an option of its own.

    Args:
        command: the function behind a command.

    Returns:
        A function with one parameter per option, which builds the dataclasses and calls the command; the command itself where there are
        none.
    """
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    grouped = {name: hints[name] for name in signature.parameters if is_dataclass(hints[name])}
    if not grouped:
        return command
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in grouped:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))
            continue
        types = _hints_of(grouped[name])
        for field in fields(grouped[name]):
            parameters.append(inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]))

    def call(**values: Any) -> Any:
        for name, group in grouped.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    call.__name__, call.__doc__ = command.__name__, command.__doc__
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


@lru_cache
def _hints_of(group: type) -> dict[str, Any]:
    """The types of a group's fields, with what makes flags of them: many commands share one."""
    hints = get_type_hints(group)
    return {name: Annotated[hints[name], _typer_option(name, flag)] for name, flag in flags_of_group(group).items()}


def _typer_option(name: str, flag: Flag) -> Any:
    names = flag.names or (f"--{name.replace('_', '-')}",)
    return typer.Option(*names, help=flag.help, metavar=flag.metavar, rich_help_panel=flag.panel, min=flag.min)


def usage_error(error: Any) -> str:
    """One line about an error of the parser: what was wrong, named with its flag, and which flags there are.

    Args:
        error: a `ClickException`.
    """
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    command: Any = None if context is None else context.command
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return unknown("option", error.option_name, flags_of(command))
    if kind == "BadOptionUsage" and "requires" in error.format_message():
        return f"{error.option_name} needs a value."
    message = " ".join(error.format_message().split()).rstrip(".")
    name = re.match(r"No such command '([^']+)'", message)
    if name is not None:
        return unknown("command", name[1], command.commands)
    flag = None if parameter is None else next((word for word in parameter.opts if word.startswith("--")), None)
    help = f"see {context.command_path} --help" if context is not None else "see --help"
    if kind == "BadParameter" and flag is not None:
        value = _value_of([flag], context.meta.get(WORDS, ()) if context is not None else ())
        return f"{flag} expects {_expectation(message)}" + ("." if value is None else f"; got {value!r}.")
    return f"{message[:1].lower()}{message[1:]} ({help})."


def _expectation(message: str) -> str:
    """What an option takes, from the parser's message that a value is none of it."""
    for pattern, words in EXPECTATIONS.items():
        found = re.search(pattern, message)
        if found is not None:
            return found.expand(words)
    choices = re.search(r"is not one of (.+)$", message)
    if choices is not None:
        return " or ".join(re.findall(r"'([^']+)'", choices[1]))
    return f"another value ({message})"


def _value_of(flags: Sequence[str], words: Sequence[str]) -> str | None:
    """The last value that was typed for an option."""
    value = None
    for word, following in zip(words, [*words[1:], None]):
        flag, equals, text = word.partition("=")
        if flag in flags:
            value = text if equals else following
    return value


def in_flags(message: str, command: Any, words: Sequence[str] = ()) -> str:
    """An error of the library in the words of the command line: `batch_size` becomes `--batch-size`, `labels=…` becomes `--labels …`.

    Args:
        message: the error's text; what it quotes stays as it is.
        command: the command that was called.
        words: what was typed; options that were given a number are called by their flags wherever they are named.
    """
    names = {parameter.name: next((word for word in parameter.opts if word.startswith("--")), "") for parameter in command.params}
    names = {name: flag for name, flag in names.items() if flag}
    names |= {name: names[alias] for name, alias in ALIASES.items() if alias in names and name not in names}
    if command.context_settings.get("ignore_unknown_options"):
        names |= {name: f"--{name.replace('_', '-')}" for name in _method_options() if name not in names}
    unused = re.match(r"(\S+): no option is called '(\w+)'", message)
    if unused is not None and unused[2] in names:
        return f"{names[unused[2]]} does not go with {unused[1]}."
    message = message.replace("pretrained=False", "--untrained")
    names = {name: flag for name, flag in names.items() if not re.search(rf"{re.escape(flag)}\b(?!-)", message)}
    numbered = {name for name, flag in names.items() if re.fullmatch(r"-?[\d.]+(e-?\d+)?", _value_of([flag], words) or "")}
    if not names:
        return message
    pattern = re.compile(r"(?<![\w./'\"-])(?<!did you )(" + "|".join(map(re.escape, names)) + r")(=|\b)")

    def flag_of(found: re.Match[str]) -> str:
        name, equals = found[1], found[2]
        return f"{names[name]} " if equals else names[name] if "_" in name or name in numbered else found[0]

    parts = re.split(r"((?<!\w)'[^']*'|\"[^\"]*\")", message)
    return "".join(part if i % 2 else pattern.sub(flag_of, part) for i, part in enumerate(parts))


def _flags_of_methods(words: Sequence[str]) -> list[str]:
    """The options that every method has, and those of the methods that were typed (none: Grad-CAM), as flags."""
    known = catalogue.methods()
    names = {word.removeprefix("--method=") for word in words}
    typed = [entry for name, entry in known.items() if name in names]
    entries = [catalogue.settings(), *(typed or [known["gradcam"]])]
    return list(dict.fromkeys(f"--{name.replace('_', '-')}" for entry in entries for name in entry.types))


def _method_options() -> Iterable[str]:
    entries = [catalogue.settings(), *catalogue.methods().values()]
    return {name for entry in entries for name in entry.types}


ClickException: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""The base of the parser's errors, which older versions of typer take from click."""
