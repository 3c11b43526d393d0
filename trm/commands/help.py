"""`--help`: what a command does and its options in groups, as plain text."""

import re
import shutil
import textwrap
from collections.abc import Callable, Collection

from tyro import _arguments, _parsers, _resolver, _singleton

_LEFT = 26  # columns for an option; what it means stands to the right of it


def text(command: Callable[..., int], prog: str, common: Collection[str] = ()) -> str:
    """Help for a command; of many options those that are `common`, and a word on how to see all."""
    width = min(110, shutil.get_terminal_size((110, 50)).columns)
    spec = _parsers.ParserSpecification.from_callable_or_type(
        _resolver.TypeParamResolver.resolve_params_and_aliases(command),
        markers=set(),
        description=None,
        parent_classes=set(),
        default_instance=_singleton.MISSING_NONPROP,
        intern_prefix="",
        extern_prefix="",
        subcommand_prefix="",
        support_single_arg_types=False,
        prog_suffix="",
    )
    found = spec.get_args_including_children()
    places = [each.arg for each in found if each.arg.is_positional()]
    groups: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    left_out = 0
    for each in found:
        if each.arg.is_positional():
            continue
        group = each.source_parser.extern_prefix
        if common and each.arg.lowered.name_or_flags[0].removeprefix("--").replace("-", "_") not in common:
            left_out += 1
            continue
        about = str(each.source_parser.description or "").strip().splitlines()
        titles.setdefault(group, f"{group}: {about[0]}" if group and about else group or "options")
        groups.setdefault(group, []).append(_entry(_option(each.arg), _meaning(each.arg), width))
    usage = " ".join([f"usage: {prog}", *(f"[{_value(arg)}]" for arg in places), "[options]"])
    about = [_wrapped(line, width) for line in str(spec.description).strip().splitlines()]
    parts = [usage, "\n".join(about)]
    if places:
        parts.append("\n".join(_entry(_value(arg), _meaning(arg), width) for arg in places))
    parts += [f"{titles[group]}\n" + "\n".join(entries) for group, entries in groups.items()]
    if left_out:
        parts.append(f"{left_out} more options, rarely needed: {prog} --help-all")
    return "\n\n".join(parts)


def _wrapped(line: str, width: int) -> str:
    """A line of prose; an indented one, such as an example, stays as it is."""
    return line if line.startswith(" ") else textwrap.fill(line, width, break_on_hyphens=False)


def _option(arg: _arguments.ArgumentDefinition) -> str:
    """An option as it is typed, and what it takes."""
    name = arg.lowered.name_or_flags[0]
    if arg.lowered.action != "boolean_optional_action":
        return f"{name} {_value(arg)}".rstrip()
    if not arg.field.default:
        return name
    section, dot, last = name.removeprefix("--").rpartition(".")
    return f"--{section}{dot}[no-]{last}"


def _value(arg: _arguments.ArgumentDefinition) -> str:
    return str(arg.lowered.metavar or "").replace("{None}|", "").replace("|{None}", "")


def _meaning(arg: _arguments.ArgumentDefinition) -> str:
    """What an option means, with its default where that says something."""
    words = _arguments.generate_argument_helptext(arg, arg.lowered).as_str_no_ansi()
    return re.sub(r" *\(default: *(None|False|''|\"\")?\)", "", " ".join(words.split()))


def _entry(left: str, right: str, width: int) -> str:
    """Two columns; an option that is longer than its column has a line of its own."""
    indent = " " * (_LEFT + 2)
    lines = textwrap.wrap(right, max(30, width - len(indent)), break_on_hyphens=False) or [""]
    first = f"  {left}"
    if len(first) > _LEFT:
        return "\n".join([first, *(indent + line for line in lines)]).rstrip()
    return "\n".join([f"{first:<{_LEFT + 2}}{lines[0]}", *(indent + line for line in lines[1:])]).rstrip()
