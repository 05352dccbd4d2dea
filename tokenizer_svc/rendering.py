"""Conversations to prompts, with this deployment's defaults."""

from __future__ import annotations

from dataclasses import replace

from qwenserve.chat.v1 import message_pb2
from qwenserve.runtime.config import Config
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.text.assets import ModelAssets
from qwenserve.text.chat_template import TemplateError
from qwenserve.text.content_guard import ContentGuard, Prompt, render_prompt
from qwenserve.text.conversation import ConversationError, conversation_to_template


class Renderer:
    """Renders for one model. May be used from any thread."""

    def __init__(self, assets: ModelAssets, config: Config) -> None:
        self._template = assets.template
        self._enable_thinking = config.model.enable_thinking
        self._prefix_stable = config.template.prefix_stable
        plain = config.template.special_tokens_in_content == "plain"
        self._guard = ContentGuard(assets.tokenizer.added_ids) if plain else None

    def render(self, conversation: message_pb2.Conversation) -> Prompt:
        """Returns the prompt. Raises InvalidRequest naming the field by its path from the conversation."""
        try:
            given = conversation_to_template(conversation)
            given.variables.setdefault("enable_thinking", self._enable_thinking)
            if given.prefix_stable is None:
                given = replace(given, prefix_stable=self._prefix_stable)
            return render_prompt(self._template, given, self._guard)
        except ConversationError as error:
            raise InvalidRequest(error.message, param=error.path) from None
        except TemplateError as error:
            where = "messages" if error.message_index is None else f"messages[{error.message_index}]"
            raise InvalidRequest(f"{where}: the chat template cannot render it: {error}", param=where) from None
