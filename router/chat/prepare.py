"""From a request to what is submitted for it: checked, completed, rendered, tokenized, fitted to the window."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.guidance import Guidance
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.chat.sampling import (
    check_cache_salt,
    check_characters,
    check_counts,
    check_ids_in_all,
    check_labels,
    check_priority,
    check_prompt_ids,
    check_prompt_length,
    check_sampling,
    check_session,
    check_top,
    complete,
    drop_unsupported,
    fit_window,
)
from qwenserve.router.chat.thinking import BEGIN_OF_THOUGHT, END_OF_THOUGHT, ThinkingBudget, thinking_tokens
from qwenserve.router.clients.directory import WorkerDirectory
from qwenserve.router.clients.text_service import RenderedChat, TextService
from qwenserve.router.generation.leg import LegGuide
from qwenserve.router.guides.checks import is_free
from qwenserve.router.routing.requirements import (
    NO_REQUIREMENTS,
    Capabilities,
    Common,
    Requirements,
    best_suited,
    common_to,
)
from qwenserve.runtime.config import RouterConfig
from qwenserve.runtime.counting import Distribution
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.errors import DeadlineExceeded, InvalidRequest, Unsupported
from qwenserve.runtime.values import frozen_value
from qwenserve.text.conversation import ConversationError, TemplateInput, conversation_to_template, is_large
from qwenserve.text.markers import Marker, starts_in_reasoning
from qwenserve.text.pipeline import AnswerPipeline, CompletionPipeline, PipelineSettings, ScoringPipeline
from qwenserve.text.tokenizer import Tokenizer
from qwenserve.text.tool_calls import tool_schemas
from qwenserve.type.v1 import guide_pb2, sampling_pb2

_MAX_PROMPTS = 128
# Ids of a prompt that are checked before the event loop gets a turn: about a millisecond's work.
_IDS_PER_TURN = 16_384
# Each choice is a submission with a prompt of its own: n times the prompts could be 2,048 of them.
_MAX_CHOICES_IN_ALL = 256
_COMPLETION_MAX_TOKENS = 16
# A character has at most four bytes, so at most its last three tokens can be cut off before its end.
_CONTEXT_IDS = 8

_NO_IDS: frozenset[int] = frozenset()
_NONE = chat_pb2.ToolChoice.MODE_NONE
_MODES = {number: name for name, number in chat_pb2.ToolChoice.Mode.items()}

T = TypeVar("T")


@frozen_value
class Prepared:
    """A checked request, ready to submit to a worker that has what it `needs`. Each prompt gets `choices` answers."""

    prompts: Sequence[Sequence[int]]
    rendered: str
    sampling: sampling_pb2.SamplingParams
    ignored: list[str]
    new_pipeline: Callable[[Sequence[int]], AnswerPipeline | CompletionPipeline]
    starts_in_reasoning: bool
    choices: int
    priority: int
    cache_salt: str
    unsupported: frozenset[str]
    # An engine gives no id after one of these.
    end_ids: frozenset[int]
    needs: Requirements
    # Requests of one session go to one worker, under the policy for it.
    session: str
    thinking: ThinkingBudget | None = None
    guide: LegGuide | None = None
    behind_thought: Sequence[int] = ()


@frozen_value
class _Fit:
    """The result of fitting a request to the workers: the fields that it set and that cannot be applied, all those that
    must not be sent, and what a worker needs to be given it.
    """

    ignored: list[str]
    unsupported: frozenset[str]
    needs: Requirements


class Preparation:
    """Prepares requests for one model. `chat` and `completion` raise ServiceError naming the field at fault."""

    def __init__(
        self,
        model: ServedModel,
        workers: WorkerDirectory,
        text: TextService,
        config: RouterConfig,
        prompt_stage: Distribution,
    ) -> None:
        self._model = model
        self._tokenizer = model.assets.tokenizer
        self._workers = workers
        self._text = text
        self._config = config
        self._prompt_stage = prompt_stage
        self._guidance = Guidance(model, strict_tools=config.strict_tools)
        closing = self._tokenizer.added_ids.get(Marker.THINK_CLOSE.value)
        self._thought_ends = _NO_IDS if closing is None else frozenset({closing})
        self._behind_thought = self._tokenizer.encode("\n\n")
        # What the workers of the last request had together: they seldom change.
        self._known: Sequence[Capabilities] = ()
        self._common = common_to(())
        # Those of answers without tools, stop strings and other wishes for their text.
        self._plain_settings = PipelineSettings(
            separate_reasoning=config.separate_reasoning, eos_token_ids=model.assets.eos_token_ids
        )
        self._thought_closing = self._tokenizer.encode(config.thinking_closing + END_OF_THOUGHT)

    @property
    def max_model_len(self) -> int:
        """The context window in tokens: what model and configuration allow, and the largest of the workers."""
        return self._window(self._common_to(self._workers.capabilities))

    async def chat(self, request: chat_pb2.ChatCompletionRequest, call: Call, *, need_prompt: bool = False) -> Prepared:
        """Prepares a chat; the rendered prompt is there only if it is needed."""
        asked = self._check_common(request)
        choice = request.tool_choice
        mode = choice.mode
        if mode not in _MODES:
            raise InvalidRequest(
                f"tool_choice.mode must be one of {', '.join(_MODES.values())}", param="tool_choice.mode"
            )
        given = await _converted(request.conversation)
        budget = thinking_tokens(request, given.variables, self._config.reasoning_efforts, self._config.thinking_budget)
        given.variables.setdefault("enable_thinking", self._model.enable_thinking)
        if given.prefix_stable is None and self._model.prefix_stable:
            given = replace(given, prefix_stable=True)
        if mode == _NONE:
            # The only sure way to prevent calls: a model that sees no tools calls none.
            given = replace(given, tools=None)
        if budget == 0:
            given.variables["enable_thinking"] = False
        guide = None
        if self._guidance.binds(request, given.tools):
            guide = await _in_time(self._guidance.of_chat(request, given.tools), call)
        stage = time.monotonic()
        rendering = self._text.render_chat(request.conversation, given, need_prompt=need_prompt)
        rendered = await (rendering if call.deadline is None else _in_time(rendering, call))
        self._prompt_stage.observe(time.monotonic() - stage)
        if budget == 0 and starts_in_reasoning(self._tokenizer, rendered.token_ids):
            # A template that opens a thought whatever it is told.
            rendered = RenderedChat(
                [*rendered.token_ids, *self._tokenizer.encode(END_OF_THOUGHT)],
                rendered.prompt and rendered.prompt + END_OF_THOUGHT,
            )
        in_reasoning = starts_in_reasoning(self._tokenizer, rendered.token_ids)
        thinking = bool(given.variables["enable_thinking"]) and self._model.assets.template.supports_thinking
        sampling = complete(request.sampling, self._model.defaults(thinking))
        whole_answer = guide is not None and not is_free(guide)
        if guide is not None and whole_answer and thinking and not in_reasoning and self._may_open_thought(request):
            # Nothing else would tell where the thought ends and the answer begins.
            rendered = RenderedChat(
                [*rendered.token_ids, *self._tokenizer.encode(BEGIN_OF_THOUGHT)],
                rendered.prompt and rendered.prompt + BEGIN_OF_THOUGHT,
            )
            in_reasoning = True
        fit = self._fit(request, asked, sampling, rendered.token_ids, self._config.default_max_tokens, call, guide)
        behind = self._thought_ends if in_reasoning and whole_answer else _NO_IDS
        hidden = self._hidden_ids(request.sampling)
        separates = request.HasField("separate_reasoning")
        settings = self._plain_settings
        if given.tools or separates or hidden is not settings.eos_token_ids or request.stop_strings:
            settings = PipelineSettings(
                stop_strings=tuple(request.stop_strings),
                separate_reasoning=request.separate_reasoning if separates else self._config.separate_reasoning,
                parse_tools=self._model.assets.template.tool_call_format if given.tools else "",
                tools=tool_schemas(given.tools) if given.tools else None,
                # An answer that is bound to a form may be JSON of any kind.
                untagged=guide is None,
                parallel_tool_calls=not choice.HasField("parallel") or choice.parallel,
                eos_token_ids=hidden,
            )
        return Prepared(
            # By place: a call with sixteen names goes by way of a dictionary.
            [rendered.token_ids],
            rendered.prompt,
            sampling,
            fit.ignored,
            partial(_answer_pipeline, self._tokenizer, settings, in_reasoning),
            in_reasoning,
            choices=request.n or 1,
            priority=request.priority,
            cache_salt="" if "cache_salt" in fit.unsupported else request.cache_salt,
            unsupported=fit.unsupported,
            needs=fit.needs,
            session=request.session,
            end_ids=_end_ids(sampling, hidden),
            thinking=ThinkingBudget(budget, self._thought_closing, self._thought_ends)
            if budget > 0 and (thinking or in_reasoning)
            else None,
            guide=None if guide is None else LegGuide(guide, behind),
            behind_thought=self._behind_thought,
        )

    async def completion(self, request: chat_pb2.CompletionRequest, call: Call) -> Prepared:
        """Prepares a completion."""
        scores_only = _scores_only(request)
        if scores_only:
            given = request
            request = chat_pb2.CompletionRequest()
            request.CopyFrom(given)
            request.sampling.max_tokens = 1  # an engine gives no less
        new = ScoringPipeline if scores_only else CompletionPipeline
        asked = self._check_common(request)
        if not 1 <= len(request.prompts) <= _MAX_PROMPTS:
            raise InvalidRequest(f"send 1 to {_MAX_PROMPTS} prompts, got {len(request.prompts)}", param="prompt")
        if len(request.prompts) * max(1, request.n) > _MAX_CHOICES_IN_ALL:
            raise InvalidRequest(
                f"{len(request.prompts)} prompts with n={request.n} are more than {_MAX_CHOICES_IN_ALL} answers",
                param="n",
            )
        check_ids_in_all([prompt.token_ids.ids for prompt in request.prompts], "prompt")
        is_text = [prompt.WhichOneof("prompt") != "token_ids" for prompt in request.prompts]
        texts = [prompt.text for prompt, known in zip(request.prompts, is_text, strict=True) if known]
        check_characters(texts, "prompt")
        tokenized = iter(await _in_time(self._text.tokenize_batch(texts), call) if texts else ())
        prompts: list[Sequence[int]] = []
        for index, prompt in enumerate(request.prompts):
            ids: Sequence[int] = next(tokenized) if is_text[index] else prompt.token_ids.ids
            param = "prompt" if len(request.prompts) == 1 else f"prompt[{index}]"
            check_prompt_length(len(ids), self.max_model_len, param)
            check_prompt_ids(ids, self._tokenizer.vocab_size, param)
            prompts.append(ids)
            if len(ids) > _IDS_PER_TURN:
                await asyncio.sleep(0)
        # A raw completion has no thinking phase: the values for answers without thinking apply.
        sampling = complete(request.sampling, self._model.defaults(False))
        longest = max(prompts, key=len)
        guide = await _in_time(self._guidance.of_request(request), call)
        fit = self._fit(request, asked, sampling, longest, _COMPLETION_MAX_TOKENS, call, guide)
        hidden = self._hidden_ids(request.sampling)
        settings = PipelineSettings(stop_strings=tuple(request.stop_strings), eos_token_ids=hidden)
        return Prepared(
            prompts=prompts,
            rendered="",
            sampling=sampling,
            ignored=fit.ignored,
            new_pipeline=lambda prompt: new(self._tokenizer, settings, context=prompt[-_CONTEXT_IDS:]),
            starts_in_reasoning=False,
            choices=max(1, request.n),
            priority=request.priority,
            cache_salt="" if "cache_salt" in fit.unsupported else request.cache_salt,
            unsupported=fit.unsupported,
            needs=fit.needs,
            session=request.session,
            end_ids=_end_ids(sampling, hidden),
            guide=None if guide is None else LegGuide(guide),
        )

    async def template_input(self, conversation: message_pb2.Conversation) -> TemplateInput:
        """Converts a conversation, off the event loop where it is large, with the deployment's thinking default filled
        in. Raises InvalidRequest.
        """
        given = await _converted(conversation)
        given.variables.setdefault("enable_thinking", self._model.enable_thinking)
        return given if given.prefix_stable is not None else replace(given, prefix_stable=self._model.prefix_stable)

    def _check_common(self, request: chat_pb2.ChatCompletionRequest | chat_pb2.CompletionRequest) -> set[str]:
        """Returns the names of the sampling fields that the request sets."""
        self._model.check_name(request.model)
        check_counts(request.n, request.stop_strings)
        asked = check_sampling(request.sampling, self._tokenizer.vocab_size)
        # Few requests have any of these.
        if salt := request.cache_salt:
            check_cache_salt(salt)
        if session := request.session:
            check_session(session)
        if priority := request.priority:
            check_priority(priority)
        user = request.user
        labels = request.metadata if isinstance(request, chat_pb2.ChatCompletionRequest) else None
        if user or labels:
            check_labels(user, labels or {})
        if request.HasField("prompt_logprobs"):
            check_top(request.prompt_logprobs, "prompt_logprobs")
        return asked

    def _fit(
        self,
        request: chat_pb2.ChatCompletionRequest | chat_pb2.CompletionRequest,
        fields: set[str],
        sampling: sampling_pb2.SamplingParams,
        prompt: Sequence[int],
        default_max: int,
        call: Call,
        guide: guide_pb2.Guide | None,
    ) -> _Fit:
        """Fits `sampling` to the window and to the workers that can do most of what is asked. `fields` are the sampling
        fields that the request sets; they are changed here.
        """
        asked = request.sampling
        known = self._workers.capabilities
        if guide is not None and known:
            known = _following(guide.kind, known, "guide" if request.HasField("guide") else "tool_choice")
        kind = 0 if guide is None else int(guide.kind)
        fields.discard("max_tokens")
        salted = bool(request.cache_salt)
        if salted:
            fields.add("cache_salt")
        of_prompt = request.HasField("prompt_logprobs")
        if of_prompt:
            fields.add("prompt_logprobs")
        common = self._common_to(known)
        top_logprobs, length = asked.top_logprobs, len(prompt)
        if top_logprobs and known:
            self._check_top_logprobs(top_logprobs, common.max_top_logprobs, known)
        # A prompt must fit with its first token; how much of `max_tokens` does comes out below.
        suited = known
        if len(known) > 1:
            suited = best_suited(known, Requirements(frozenset(fields), length + 1, top_logprobs, kind))
            if suited is not known:
                common = common_to(suited)
        ignored: list[str] = []
        window = self._window(common)
        if window and fit_window(sampling, length, window, default_max):
            if self._is_strict(call):
                raise InvalidRequest(
                    f"max_tokens {asked.max_tokens} and {length} prompt tokens exceed the window of {window}",
                    param="max_tokens",
                )
            ignored.append("max_tokens")
        unsupported = common.unsupported
        if of_prompt and "prompt_logprobs" in unsupported:
            engines = ", ".join(sorted({worker.engine for worker in suited}))
            raise Unsupported(
                f"prompt_logprobs: the {engines} engine cannot compute log-probabilities of prompts; leave out "
                "prompt_logprobs, or echo with logprobs",
                param="prompt_logprobs",
            )
        if unsupported:
            besides = ("cache_salt",) if salted else ()
            engines = ", ".join(sorted({worker.engine for worker in suited}))
            ignored += drop_unsupported(
                asked, sampling, unsupported, asked_besides=besides, strict=self._is_strict(call), engine=engines
            )
        if not known:
            return _Fit(ignored, unsupported, NO_REQUIREMENTS)
        fields.add("seed")
        if unsupported:
            fields -= unsupported
            if "top_logprobs" in unsupported:
                top_logprobs = 0
        needs = Requirements(frozenset(fields), length + sampling.max_tokens, top_logprobs, kind)
        return _Fit(ignored, unsupported, needs)

    @staticmethod
    def _check_top_logprobs(wanted: int, most: int, workers: Sequence[Capabilities]) -> None:
        """Raises InvalidRequest for more alternatives than any worker tells, where one tells them at all."""
        if wanted > most and not all("top_logprobs" in worker.unsupported for worker in workers):
            raise InvalidRequest(f"top_logprobs must be 0 to {most} here, got {wanted}", param="top_logprobs")

    def _is_strict(self, call: Call) -> bool:
        return self._config.strict if call.strict is None else call.strict

    def _common_to(self, known: Sequence[Capabilities]) -> Common:
        if known is not self._known:
            self._known, self._common = known, common_to(known)
        return self._common

    def _window(self, workers: Common) -> int:
        """Returns the largest window of some workers, within the model's; 0 where neither is known."""
        own, largest = self._model.max_model_len, workers.max_model_len
        return min(own, largest) if own and largest else own or largest

    def _may_open_thought(self, request: chat_pb2.ChatCompletionRequest) -> bool:
        """Whether the prompt ends where a thought may begin."""
        return bool(self._thought_ends) and not request.conversation.continue_final_message

    def _hidden_ids(self, sampling: sampling_pb2.SamplingParams) -> frozenset[int]:
        eos = self._model.assets.eos_token_ids
        return eos | frozenset(sampling.stop_token_ids) if sampling.stop_token_ids else eos


def _answer_pipeline(
    tokenizer: Tokenizer, settings: PipelineSettings, in_reasoning: bool, prompt: Sequence[int]
) -> AnswerPipeline:
    return AnswerPipeline(tokenizer, settings, starts_in_reasoning=in_reasoning)


def _end_ids(sampling: sampling_pb2.SamplingParams, hidden: frozenset[int]) -> frozenset[int]:
    return frozenset(sampling.stop_token_ids) if sampling.ignore_eos else hidden


def _scores_only(request: chat_pb2.CompletionRequest) -> bool:
    """Whether nothing is to be generated. Raises InvalidRequest where nothing would be answered then."""
    if not request.sampling.HasField("max_tokens") or request.sampling.max_tokens != 0:
        return False
    if not (request.echo or request.HasField("prompt_logprobs")):
        raise InvalidRequest("max_tokens 0 generates nothing; set echo or prompt_logprobs with it", param="max_tokens")
    return True


def _following(kind: guide_pb2.GuideKind, workers: Sequence[Capabilities], param: str) -> Sequence[Capabilities]:
    """Returns the workers that can follow such a guide. Raises Unsupported where none can, for what asked for it."""
    able = [worker for worker in workers if kind in worker.guide_kinds]
    if not able:
        engines = ", ".join(sorted({worker.engine for worker in workers}))
        name = guide_pb2.GuideKind.Name(kind).removeprefix("GUIDE_KIND_")
        remedy = "use 'auto'" if param == "tool_choice" else "leave it out"
        raise Unsupported(f"{param}: the {engines} engine cannot follow a guide of kind {name}; {remedy}", param=param)
    return able


async def _converted(conversation: message_pb2.Conversation) -> TemplateInput:
    try:
        if is_large(conversation):
            return await asyncio.to_thread(conversation_to_template, conversation, large=True)
        return conversation_to_template(conversation, large=False)
    except ConversationError as error:
        raise InvalidRequest(error.message, param=error.path) from None


async def _in_time(work: Awaitable[T], call: Call) -> T:
    """Waits for work on a prompt, at most until the call's deadline. Raises DeadlineExceeded."""
    remaining = call.remaining_s()
    if remaining is None:
        return await work
    try:
        return await within(remaining, work)
    except asyncio.TimeoutError:
        raise DeadlineExceeded("the deadline passed while the prompt was being tokenized") from None
