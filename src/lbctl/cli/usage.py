"""How a command is called: its usage line, and what is reported of words that are not understood.

Typer's own texts differ between its versions, and say little of what is accepted.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lbctl.errors import WrongUsage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: The base of what Typer reports: click's class, or that of Typer's copy of click (0.26).
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
#: How much of a word has to be the same for it to be taken for a typing error.
_SIMILAR = 0.7
#: Commands of other programs, and what does the same here.
_COMMANDS = {
    "undrain": "activate",
    "enable": "activate",
    "up": "activate",
    "disable": "drain",
    "down": "drain",
    "undo": "rollback",
    "revert": "rollback",
    "start": "apply",
    "stop": "remove",
    "delete": "remove",
    "destroy": "remove",
    "uninstall": "remove",
    "list": "status",
    "show": "status",
    "ls": "status",
    "validate": "check",
    "diff": "plan",
    "reload": "apply",
    "help": "--help",
}
#: The same for options, in a sentence.
_OPTIONS = {
    "--dry-run": "lbctl plan shows what apply would change",
    "--check": "lbctl plan --exit-code ends with 1 if apply would change something",
    "--force": "--yes skips the prompt",
    "--verbose": "LBCTL_DEBUG=1 shows where a bug happened",
    "--json": "--output json",
    "--host": "this command works on this host alone",
    "--parallel": "this command works on this host alone",
    "-c": "-f FILE or --config FILE names the intent file",
}
#: What to do instead of giving a command one more argument.
_ARGUMENTS = {
    "rollback": "lbctl rollback --to NUMBER returns to a state that lbctl history lists",
    "remove": "it removes all services; to remove one, delete it from the intent file and run lbctl apply",
}


class BadValue(typer.BadParameter):
    """A value that a parser of ours refuses. The message has the value, and what is accepted."""


class Command(TyperCommand):
    """A command with plain usage."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill a context from the command line; raises `WrongUsage`."""
        ctx.allow_extra_args = True
        with _reported(ctx):
            _refuse_repeated(self, ctx, args)
            rest: list[str] = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            # Of files, that is the next step; all other commands name what they take.
            files = any(is_argument(each) and name_of(each) == "FILE" for each in self.params)
            merged = "; the files of a directory are merged" if files else ""
            hint = _ARGUMENTS.get(str(ctx.info_name)) or f"{_usage(ctx)}{merged}"
            raise WrongUsage(f'unexpected argument "{ctx.args[0]}"', hint=hint)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 (Typer's)
        """Return the words of the usage line behind the command."""
        options = [self.options_metavar] if self.options_metavar else []
        return [*options, *(_argument(each) for each in self.params if is_argument(each))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of arguments and options."""
        records = [(each, each.get_help_record(ctx)) for each in self.get_params(ctx)]
        arguments = [(name_of(each), record[1]) for each, record in records if record and is_argument(each)]
        options = [record for each, record in records if record and not is_argument(each)]
        for title, found in (("Arguments", arguments), ("Options", options)):
            if found:
                with formatter.section(title):
                    formatter.write_dl(found)


class Group(TyperGroup):
    """Commands under one name, with plain usage."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill a context from the command line; raises `WrongUsage`."""
        with _reported(ctx):
            _refuse_repeated(self, ctx, args)
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is named; raises `WrongUsage`."""
        try:
            return super().resolve_command(ctx, args)
        except _UsageError:
            known = [name for name, each in self.commands.items() if not each.hidden]
            near = _COMMANDS.get(args[0]) if ctx.parent is None else None
            near = near or _near(args[0], known)
            hint = f'did you mean "{near}"?' if near else f"the commands are: {', '.join(known)}"
            raise WrongUsage(_has_no(f'command "{args[0]}"', ctx), hint=hint) from None


def _refuse_repeated(command: Any, ctx: Any, args: Sequence[str]) -> None:
    """Raise `WrongUsage` for an option that has one value and is given twice: click ignores the first."""
    if ctx.resilient_parsing:
        return
    _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    seen = set()
    for param in order:
        if is_argument(param) or param.multiple or param.is_flag or param.count:
            continue
        name = name_of(param)
        if name in seen:
            merged = "; the files of a directory are merged" if param.metavar == "FILE" else ""
            raise WrongUsage(f"{name} is given twice", hint=f"give it once{merged}")
        seen.add(name)


@contextmanager
def _reported(ctx: Any) -> Iterator[None]:
    """Report in our words what Typer does not understand."""
    try:
        yield
    except _UsageError as error:
        # Its message is the help.
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        raise _explained(error, ctx) from None


def _explained(error: Any, ctx: Any) -> WrongUsage:
    match type(error).__name__:
        case "NoSuchOption":
            return _unknown_option(error.option_name, ctx)
        case "BadOptionUsage":
            return _bad_option(error.option_name, ctx)
        case "MissingParameter":
            return WrongUsage(f"{name_of(error.param)} is missing", hint=_usage(ctx))
        case "BadParameter" if error.param is not None:
            return WrongUsage(f"{name_of(error.param)} takes {_accepted(error.param)}", hint=_usage(ctx))
        case "BadValue" if error.param is not None:
            return WrongUsage(f"{name_of(error.param)}: {error.message}")
        case _:
            return WrongUsage(error.format_message(), hint=_usage(ctx))


def _unknown_option(name: str, ctx: Any) -> WrongUsage:
    known = [max(each.opts, key=len) for each in ctx.command.get_params(ctx) if not is_argument(each)]
    near = _near(name, known)
    if name[1:].isdecimal():
        return WrongUsage("a negative number is not accepted", hint=_usage(ctx))
    if (hint := _of_a_command(name, ctx) or _OPTIONS.get(name)) is None:
        hint = f"did you mean {near}?" if near else f"the options are: {', '.join(known)}"
    return WrongUsage(_has_no(f"option {name}", ctx), hint=hint)


def _of_a_command(name: str, ctx: Any) -> str | None:
    """Return where an option goes that stands before the command."""
    if ctx.parent is not None:
        return None
    commands = [word for word, each in ctx.command.commands.items() if _has_option(each, name)]
    return f"options follow the command, e.g. lbctl {commands[0]} {name}" if commands else None


def _has_option(command: Any, name: str) -> bool:
    return any(name in each.opts for each in command.params if not is_argument(each))


def _has_no(what: str, ctx: Any) -> str:
    """Return that a command, or lbctl itself, does not have something."""
    return f"there is no {what}" if ctx.parent is None else f"{ctx.info_name} has no {what}"


def _bad_option(name: str, ctx: Any) -> WrongUsage:
    """Report an option without its value, or a flag with one."""
    [option] = [each for each in ctx.command.get_params(ctx) if name in each.opts]
    if option.is_flag:
        return WrongUsage(f"{name} takes no value", hint=option.help)
    choices = _choices(option)
    return WrongUsage(
        f"{name} needs a value", hint=f"one of {', '.join(choices)}" if choices else option.help
    )


def _accepted(param: Any) -> str:
    if choices := _choices(param):
        return f"one of {', '.join(choices)}"
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    match (least, most):
        case (None, None):
            return "a whole number"
        case (_, None):
            return f"a whole number, {least} or more"
        case _:
            return f"a whole number from {least} to {most}"


def _choices(param: Any) -> Sequence[str]:
    """Return the words that a parameter takes; none for one that takes any."""
    kind = getattr(param, "type_descriptor", None) or getattr(param, "type", None)
    return [str(each) for each in getattr(kind, "choices", None) or ()]


def is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def name_of(param: Any) -> str:
    """Return what a parameter is called: `FILE`, `--config`."""
    return str((param.metavar or param.name.upper()) if is_argument(param) else max(param.opts, key=len))


def _argument(param: Any) -> str:
    name = name_of(param) if param.required else f"[{name_of(param)}]"
    return name if param.nargs == 1 else f"{name}..."


def _usage(ctx: Any) -> str:
    """Return the usage line of a command, and its example."""
    usage = f"usage: {' '.join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)])}"
    example = str(ctx.command.epilog or "").partition("Example: ")[2]
    return f"{usage}, e.g. {example}" if example else usage


def _near(word: str, known: Iterable[str]) -> str | None:
    """Return the one of the `known` words that was probably meant: begun, or spelled wrong."""
    from difflib import get_close_matches

    names = {each.lstrip("-"): each for each in known}
    word = word.lstrip("-")
    begun = [name for name in names if word and name.startswith(word)]
    found = begun if len(begun) == 1 else get_close_matches(word, names, n=1, cutoff=_SIMILAR)
    return names[found[0]] if found else None
