"""Whole answers as the API's messages. Pure."""

from __future__ import annotations

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.router.chat.fold import Fold, FoldedChoice


def chat_completion(fold: Fold) -> chat_pb2.ChatCompletion:
    """Returns a complete answer as a chat completion."""
    start = fold.start
    return chat_pb2.ChatCompletion(
        id=start.id,
        created=start.created,
        model=start.model,
        choices=[_chat_choice(index, choice) for index, choice in fold.choices()],
        usage=fold.usage,
        prompt_token_ids=fold.prompt_token_ids(),
        ignored_params=start.ignored_params,
        cache=start.cache,
        prompt_logprobs=fold.prompt_logprobs(),
        similar=start.similar if start.HasField("similar") else None,
    )


def completion(fold: Fold, choices_per_prompt: int) -> chat_pb2.Completion:
    """Returns a complete answer as a text completion."""
    start = fold.start
    return chat_pb2.Completion(
        id=start.id,
        created=start.created,
        model=start.model,
        choices=[
            chat_pb2.CompletionChoice(
                index=index,
                text=choice.text,
                finish=choice.finish,
                logprobs=[*choice.prompt_logprobs, *choice.logprobs],
                token_ids=choice.token_ids,
                prompt_token_ids=fold.prompt_token_ids(index // choices_per_prompt),
            )
            for index, choice in fold.choices()
        ],
        usage=fold.usage,
        ignored_params=start.ignored_params,
        cache=start.cache,
    )


def _chat_choice(index: int, choice: FoldedChoice) -> chat_pb2.ChatChoice:
    message = message_pb2.Message(
        role=message_pb2.ROLE_ASSISTANT,
        content=choice.message_text,
        reasoning_content="".join(choice.reasoning) if choice.reasoning else None,
        tool_calls=[
            message_pb2.ToolCall(id=call.id, name=call.name, arguments_json="".join(arguments))
            for call, arguments in choice.calls
        ],
    )
    return chat_pb2.ChatChoice(
        index=index, message=message, finish=choice.finish, logprobs=choice.logprobs, token_ids=choice.token_ids
    )
