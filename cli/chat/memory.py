"""A terminal chat's memory: messages, system text, mode and parameters. No I/O except saving and loading."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.cli.errors import CommandError
from qwenserve.cli.state import replace_text
from qwenserve.type.v1 import sampling_pb2

# The model's own switches. One of them inside a message decides for that turn.
_SOFT_SWITCH = re.compile(r"(?<!\S)/(think|no_think)(?!\S)")

# The parameters that make sense to type; all of them are single numbers.
PARAMETERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_tokens",
)


@dataclass
class ChatMemory:
    """What the next request is made of. `thinking` None leaves it to the deployment."""

    system: str = ""
    thinking: bool | None = None
    messages: list[message_pb2.Message] = field(default_factory=list)
    sampling: sampling_pb2.SamplingParams = field(default_factory=sampling_pb2.SamplingParams)

    def request(self, model: str) -> chat_pb2.ChatCompletionRequest:
        """Returns the request for an answer to the last message."""
        messages = list(self.messages)
        if self.system:
            messages.insert(0, message_pb2.Message(role=message_pb2.ROLE_SYSTEM, content=self.system))
        conversation = message_pb2.Conversation(messages=messages)
        if self.messages and _SOFT_SWITCH.search(self.messages[-1].content):
            # With thinking switched off by the template the model could not follow its own switch.
            conversation.enable_thinking = True
        elif self.thinking is not None:
            conversation.enable_thinking = self.thinking
        return chat_pb2.ChatCompletionRequest(model=model, conversation=conversation, sampling=self.sampling)

    def ask(self, text: str) -> None:
        """Adds what the user said."""
        self.messages.append(message_pb2.Message(role=message_pb2.ROLE_USER, content=text))

    def answered(self, content: str, reasoning: str) -> None:
        """Adds what the model said."""
        message = message_pb2.Message(role=message_pb2.ROLE_ASSISTANT, content=content)
        if reasoning:
            message.reasoning_content = reasoning
        self.messages.append(message)

    def take_back(self) -> bool:
        """Removes the last question and what was answered to it. Returns whether there was one."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role == message_pb2.ROLE_USER:
                del self.messages[index:]
                return True
        return False

    def set_parameter(self, name: str, text: str) -> None:
        """Sets a sampling parameter; an empty text unsets it. Raises CommandError."""
        if name not in PARAMETERS:
            raise CommandError(f"unknown parameter {name!r}; there is: {', '.join(PARAMETERS)}")
        if not text:
            self.sampling.ClearField(name)
            return
        try:
            json_format.ParseDict({name: json.loads(text)}, self.sampling)
        except (ValueError, json_format.ParseError):
            raise CommandError(f"{name}: {text!r} is not a number that it can take") from None

    def parameters(self) -> dict[str, Any]:
        """Returns the sampling parameters that were set."""
        return {field.name: round(value, 6) for field, value in self.sampling.ListFields()}

    def save(self, file: Path) -> None:
        """Writes everything as JSON. Raises CommandError."""
        content = {
            "system": self.system,
            "thinking": self.thinking,
            "parameters": self.parameters(),
            "messages": [json_format.MessageToDict(m, preserving_proto_field_name=True) for m in self.messages],
        }
        try:
            replace_text(file.expanduser(), json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise CommandError(f"cannot write {file}: {error.strerror}") from None

    def load(self, file: Path) -> None:
        """Replaces everything by what `save` wrote. Raises CommandError, and then changes nothing."""
        try:
            content = json.loads(file.expanduser().read_text(encoding="utf-8"))
            messages = [json_format.ParseDict(item, message_pb2.Message()) for item in content["messages"]]
            sampling = json_format.ParseDict(content.get("parameters", {}), sampling_pb2.SamplingParams())
            system, thinking = str(content.get("system", "")), content.get("thinking")
        except OSError as error:
            raise CommandError(f"cannot read {file}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, json_format.ParseError) as error:
            raise CommandError(f"{file} is no saved chat: {error}") from None
        self.system, self.thinking, self.messages, self.sampling = system, thinking, messages, sampling
