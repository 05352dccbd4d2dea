"""Slash commands of the terminal chat. They change the chat's memory and return what to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qwenserve.cli.chat.memory import ChatMemory
from qwenserve.cli.errors import CommandError

HELP = """\
/think, /no_think     switch thinking on or off for later turns; inside a message they count for that turn
/system [TEXT]        show or set the system message; /system - removes it
/params [NAME=VALUE…] show or set sampling parameters; NAME= unsets one; /params reset unsets all
/clear                forget the conversation
/undo                 take back the last question and its answer
/save FILE, /load FILE
/stats                show tokens and speed after each answer, or stop doing so
/thoughts             show thoughts, or stop doing so
/exit                 leave; ctrl-D does the same
ctrl-C stops an answer. Alt-Enter begins a new line; so does everything between two lines of \"\"\"."""


@dataclass
class ChatSettings:
    """How the chat behaves, apart from what is said."""

    memory: ChatMemory = field(default_factory=ChatMemory)
    show_stats: bool = False
    show_thinking: bool = True
    leaving: bool = False


Command = Callable[[ChatSettings, str], str]


def is_command(text: str) -> bool:
    """Whether a line is a command. A path or a fraction at the start of a question is not."""
    name, _, rest = text.partition(" ")
    if name in ("/think", "/no_think"):
        return not rest.strip()  # with more text they are the model's own switches
    return name.startswith("/") and name[1:].replace("_", "").isalpha() and "\n" not in text


def run_command(settings: ChatSettings, text: str) -> str:
    """Runs a command and returns what to show. Raises CommandError."""
    name, _, rest = text.partition(" ")
    command = COMMANDS.get(name[1:])
    if command is None:
        raise CommandError(f"unknown command {name}; /help shows all")
    return command(settings, rest.strip())


def _help(settings: ChatSettings, rest: str) -> str:
    return HELP


def _exit(settings: ChatSettings, rest: str) -> str:
    settings.leaving = True
    return ""


def _think(settings: ChatSettings, rest: str) -> str:
    settings.memory.thinking = True
    return "thinking is on"


def _no_think(settings: ChatSettings, rest: str) -> str:
    settings.memory.thinking = False
    return "thinking is off"


def _system(settings: ChatSettings, rest: str) -> str:
    if rest:
        settings.memory.system = "" if rest == "-" else rest
    return f"system message: {settings.memory.system}" if settings.memory.system else "no system message"


def _params(settings: ChatSettings, rest: str) -> str:
    memory = settings.memory
    if rest == "reset":
        memory.sampling.Clear()
    else:
        for item in rest.split():
            name, separator, value = item.partition("=")
            if not separator:
                raise CommandError(f"/params {item}: expected NAME=VALUE, such as temperature=0.2")
            memory.set_parameter(name, value)
    values = [f"{name}={json.dumps(value)}" for name, value in memory.parameters().items()]
    return " ".join(values) or "all parameters are the model's own"


def _clear(settings: ChatSettings, rest: str) -> str:
    settings.memory.messages.clear()
    return "the conversation is forgotten"


def _undo(settings: ChatSettings, rest: str) -> str:
    return "taken back" if settings.memory.take_back() else "there is nothing to take back"


def _save(settings: ChatSettings, rest: str) -> str:
    if not rest:
        raise CommandError("/save needs a file name")
    settings.memory.save(Path(rest))
    return f"saved to {rest}"


def _load(settings: ChatSettings, rest: str) -> str:
    if not rest:
        raise CommandError("/load needs a file name")
    settings.memory.load(Path(rest))
    return f"loaded {len(settings.memory.messages)} messages from {rest}"


def _stats(settings: ChatSettings, rest: str) -> str:
    settings.show_stats = not settings.show_stats
    return "tokens and speed are shown" if settings.show_stats else "tokens and speed are not shown"


def _thoughts(settings: ChatSettings, rest: str) -> str:
    settings.show_thinking = not settings.show_thinking
    return "thoughts are shown" if settings.show_thinking else "thoughts are not shown"


COMMANDS: dict[str, Command] = {
    "help": _help,
    "exit": _exit,
    "quit": _exit,
    "think": _think,
    "no_think": _no_think,
    "system": _system,
    "params": _params,
    "clear": _clear,
    "undo": _undo,
    "save": _save,
    "load": _load,
    "stats": _stats,
    "thoughts": _thoughts,
}
