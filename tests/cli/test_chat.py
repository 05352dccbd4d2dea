"""The terminal chat's parts that need no server: memory, commands, questions, printing."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from qwenserve.chat.v1 import message_pb2
from qwenserve.cli.chat.answer import AnswerPrinter, AnswerText
from qwenserve.cli.chat.commands import COMMANDS, HELP, ChatSettings, is_command, run_command
from qwenserve.cli.chat.lines import PipedQuestions
from qwenserve.cli.chat.memory import ChatMemory
from qwenserve.cli.errors import CommandError
from qwenserve.type.v1 import sampling_pb2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/help", True),
        ("/save file.json", True),
        ("/think", True),
        ("/no_think", True),
        ("/think about it", False),
        ("what now? /no_think", False),
        ("/usr/bin/env", False),
        ("/etc", True),
        ("1/2", False),
        ("/help\nme", False),
    ],
)
def test_what_is_a_command(text: str, expected: bool):
    """Commands are single words after a slash; the model's switches inside a message are not."""
    assert is_command(text) is expected


@pytest.mark.parametrize(
    ("mode", "text", "sent"),
    [
        (None, "hi", None),
        (False, "hi", False),
        (True, "hi", True),
        (False, "hi /think", True),
        (True, "hi /no_think", True),
        (False, "path/think", False),
    ],
)
def test_thinking_of_a_turn(mode: bool | None, text: str, sent: bool | None):
    """The mode holds for turns that do not switch themselves; a switch in the text reaches the model unchanged."""
    memory = ChatMemory(thinking=mode)
    memory.ask(text)

    conversation = memory.request("m").conversation

    assert sent == (conversation.enable_thinking if conversation.HasField("enable_thinking") else None)
    assert conversation.messages[-1].content == text


def test_commands_change_what_is_sent():
    """System text, mode and parameters are part of the next request."""
    settings = ChatSettings()
    for command in ("/system be brief", "/no_think", "/params temperature=0.5 max_tokens=7 seed=3", "/params seed="):
        run_command(settings, command)
    settings.memory.ask("hi")

    request = settings.memory.request("m")

    assert [m.content for m in request.conversation.messages] == ["be brief", "hi"]
    assert request.conversation.enable_thinking is False
    assert settings.memory.parameters() == {"temperature": 0.5, "max_tokens": 7}
    assert request.sampling == settings.memory.sampling


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("/system", "no system message"),
        ("/params", "all parameters are the model's own"),
        ("/params reset", "all parameters are the model's own"),
        ("/stats", "tokens and speed are shown"),
        ("/undo", "there is nothing to take back"),
        ("/help", HELP),
        ("/think", "thinking is on"),
    ],
)
def test_command_answers(command: str, answer: str):
    """Every command says what is the case now."""
    assert run_command(ChatSettings(), command) == answer


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/nope", "unknown command /nope"),
        ("/params heat=1", "unknown parameter 'heat'"),
        ("/params temperature=warm", "'warm' is not a number"),
        ("/params max_tokens=1.5", "max_tokens"),
        ("/params temperature", "NAME=VALUE"),
        ("/save", "file name"),
        ("/load /no/such/file", "cannot read"),
    ],
)
def test_bad_commands_say_why(command: str, words: str):
    """A mistake is named."""
    with pytest.raises(CommandError, match=words):
        run_command(ChatSettings(), command)


def test_help_lists_every_command():
    """No command is hidden."""
    assert [name for name in COMMANDS if f"/{name}" not in HELP] == ["help", "quit"]


def test_undo_and_clear():
    """A turn is taken back with its answer; clear forgets all but the settings."""
    memory = ChatMemory(system="s")
    for number in range(2):
        memory.ask(f"q{number}")
        memory.answered(f"a{number}", "")

    assert memory.take_back()
    assert [m.content for m in memory.messages] == ["q0", "a0"]
    run_command(ChatSettings(memory=memory), "/clear")
    assert (memory.messages, memory.system) == ([], "s")


def test_saved_chats_come_back(tmp_path: Path):
    """A loaded chat continues where the saved one was."""
    memory = ChatMemory(system="s", thinking=False)
    memory.set_parameter("top_p", "0.9")
    memory.ask("你好")
    memory.answered("hi", "a thought")
    file = tmp_path / "chat.json"

    memory.save(file)
    other = ChatMemory()
    other.load(file)

    assert other == memory
    assert "你好" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"messages": [{"role": "KING"}]}', '{"messages": 1}'])
def test_what_is_no_saved_chat_changes_nothing(tmp_path: Path, content: str):
    """A file that cannot be used is refused, and the chat stays as it was."""
    file = tmp_path / "chat.json"
    file.write_text(content)
    memory = ChatMemory(system="s")

    with pytest.raises(CommandError, match="no saved chat"):
        memory.load(file)
    assert memory == ChatMemory(system="s")


async def test_piped_questions():
    """A line is a question; lines between triple quotes belong together."""
    questions = PipedQuestions(io.StringIO('one\n\n"""\ntwo\n\nlines\n"""\nlast'))

    read = [await questions.next() for _ in range(5)]

    assert read == ["one", "", "two\n\nlines", "last", None]


def printed(show_thinking: bool, *, terminal: bool = False) -> str:
    console = Console(
        file=io.StringIO(), force_terminal=terminal, color_system="standard" if terminal else None, width=40
    )
    printer = AnswerPrinter(console, show_thinking=show_thinking)
    for text in ("so ", "then"):
        printer.reasoning(text)
    for text in ("[bold]an", "swer\x1b]0;title\x07 " + "x" * 60):
        printer.content(text)
    printer.end()
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_thoughts_and_answer_are_set_apart():
    """Text arrives unchanged and unwrapped, without what could steer the terminal."""
    answer = "[bold]answer]0;title " + "x" * 60 + "\n"

    assert printed(show_thinking=True) == f"so then\n\n{answer}"
    assert printed(show_thinking=False) == answer


def test_thoughts_are_dimmed():
    """On a terminal thoughts are dim and the answer is not."""
    text = printed(show_thinking=True, terminal=True)

    assert "\x1b[2;3mthen\x1b[0m" in text
    assert "[bold]an" in text.replace("\x1b[0m", "")
    assert "\x1b]0;" not in text


def test_stats():
    """Speed is that of decoding: the first token's time is not in it."""
    usage = sampling_pb2.Usage(prompt_tokens=10, completion_tokens=21, cached_tokens=4)
    answer = AnswerText(usage=usage, first_token_s=0.5, total_s=2.5)

    assert answer.stats() == "10 prompt tokens (4 cached), 21 answer tokens, first after 500 ms, 10.0 tokens/s"
    assert AnswerText(total_s=1.0, stopped=True).stats() == "stopped after 1.0 s"


def test_reasoning_goes_back_in_its_own_field():
    """The template decides what the model sees of earlier thoughts."""
    memory = ChatMemory()
    memory.answered("a", "r")

    message = memory.messages[0]
    assert (message.role, message.content, message.reasoning_content) == (message_pb2.ROLE_ASSISTANT, "a", "r")
