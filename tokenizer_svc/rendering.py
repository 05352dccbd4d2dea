"""Conversations to prompts, with this deployment's defaults."""

from __future__ import annotations

from qwenserve.chat.v1 import message_pb2
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.text.chat_template import ChatTemplate, TemplateError
from qwenserve.text.conversation import ConversationError, conversation_to_template


def render(conversation: message_pb2.Conversation, template: ChatTemplate, *, enable_thinking: bool) -> str:
    """Returns the prompt's text. `enable_thinking` is for conversations that do not say it. Raises InvalidRequest
    naming the field by its path from the conversation."""
    try:
        given = conversation_to_template(conversation)
        given.variables.setdefault("enable_thinking", enable_thinking)
        return template.render(
            given.messages,
            given.tools,
            add_generation_prompt=given.add_generation_prompt,
            continue_final_message=given.continue_final_message,
            **given.variables,
        )
    except ConversationError as error:
        raise InvalidRequest(error.message, param=error.path) from None
    except TemplateError as error:
        where = "messages" if error.message_index is None else f"messages[{error.message_index}]"
        raise InvalidRequest(f"{where}: the chat template cannot render it: {error}", param=where) from None
