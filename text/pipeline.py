"""Token ids of one answer in, typed text events out.

    ids ▶ markers ▶ detokenizer ▶ stop strings ▶ reasoning | content | tool calls ▶ events

One object serves one choice of one request. Ids are taken one by one, so any split of the same ids gives the same
answer. What a reader of the events may rely on:

- Newlines beside `<think>` and `</think>` belong to the form and are no text. White space around a tool call is none
  either. With `separate_reasoning` off, thoughts stay in the content as written.
- Stop strings are matched on content only. A stop string in a thought or in a call's arguments ends nothing.
- Tool calls are looked for only in content, and only where the request has tools. A call that breaks, or that names
  an unknown function, comes back as content exactly as generated. Once a call's name has been sent it cannot be
  taken back: it keeps the arguments sent so far, cut at the break, and text after the break comes back as content.
- Special tokens and end ids have no text. Characters cut off by the end of the answer are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from qwenserve.text.call_reader import CallPiece, CallReader
from qwenserve.text.detokenizer import Detokenizer
from qwenserve.text.events import Content, Reasoning, TextEvent, ToolCallArguments, ToolCallStart
from qwenserve.text.markers import Marker, Section, markers_of, next_section, starts_in_reasoning
from qwenserve.text.stop_strings import NO_STOPS, StopMatcher
from qwenserve.text.tokenizer import Tokenizer
from qwenserve.text.tool_calls import ToolSchemas

__all__ = ["NO_TEXTS", "AnswerPipeline", "CompletionPipeline", "PipelineSettings", "merged", "starts_in_reasoning"]


class PipelineSettings(NamedTuple):
    """How an answer is to be read.

    `tools` maps function names to parameter schemas (`text.tool_calls.tool_schemas`); None accepts any name.
    `eos_token_ids` are ids whose text is never shown, the request's stop token ids among them.
    """

    stop_strings: tuple[str, ...] = ()
    include_stop_string: bool = False
    separate_reasoning: bool = True
    parse_tools: str = ""
    tools: ToolSchemas | None = None
    parallel_tool_calls: bool = True
    eos_token_ids: frozenset[int] = frozenset()
    skip_special_tokens: bool = True


class _NoTexts(dict[int, str | None]):
    """What `plain_texts` is where every id must be pushed."""

    def __missing__(self, token_id: int) -> None:
        return None


NO_TEXTS: Mapping[int, str | None] = _NoTexts()


class CompletionPipeline:
    """The plain path, for raw completions: text and stop strings; no markers, no reasoning, no calls.

    `context` is the end of the prompt's ids: where it stops inside a character, the first text completes it.
    `wants_stop` says that the answer has ended before the engine knows: abort it; later ids are ignored.
    """

    __slots__ = (
        "_detokenizer",
        "_event",
        "_events",
        "_hidden",
        "_owed",
        "_plain_content",
        "_stops",
        "_thinking",
        "broken_tool_calls",
        "completion_tokens",
        "has_tool_calls",
        "plain_texts",
        "reasoning_tokens",
        "stop_string",
        "wants_stop",
    )

    def __init__(self, tokenizer: Tokenizer, settings: PipelineSettings, *, context: Sequence[int] = ()) -> None:
        self.stop_string: str | None = None
        self.wants_stop = False
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.has_tool_calls = False
        self.broken_tool_calls = 0
        self._events: list[TextEvent] = []
        self._owed = 0  # ids taken whose event is still to come
        self._thinking = False
        self._hidden, hides_plain = _hidden_ids(tokenizer, settings.eos_token_ids, settings.skip_special_tokens)
        self._detokenizer = Detokenizer(tokenizer, context)
        stops = settings.stop_strings
        self._stops = StopMatcher(stops, include=settings.include_stop_string) if stops else NO_STOPS
        self._plain_content = NO_TEXTS if hides_plain else self._stops.screened(tokenizer.plain_text)
        self._event: type[Content] | type[Reasoning] = Content
        # The fast path's table, for most tokens of most answers: ids whose text is certain as it stands, None for all
        # others. Holds until the next `push` or `finish`. Who uses it tells `count_plain`.
        self.plain_texts: Mapping[int, str | None] = NO_TEXTS
        self._settle()

    @property
    def plain_reasoning(self) -> bool:
        """Whether `plain_texts` are texts of the reasoning."""
        return self._event is Reasoning

    def count_plain(self, count: int) -> None:
        """Counts ids that were not pushed, because `plain_texts` had their text."""
        self.completion_tokens += count
        if self._thinking:
            self.reasoning_tokens += count

    def push(self, token_ids: Sequence[int]) -> list[TextEvent]:
        """Takes generated ids; returns what is certain now. Ids after the end are ignored and not counted."""
        if self.wants_stop:
            return []
        self._take_all(token_ids)
        events = self._drain()
        self._settle()
        return events

    def finish(self) -> list[TextEvent]:
        """Ends the answer; returns what was held, and accounts for every id."""
        if not self.wants_stop:
            self._end()
            self.wants_stop = True
            self._settle()
        if self._owed:
            self._emit(Reasoning("", self._owed) if self._event is Reasoning else Content("", self._owed))
        return self._drain()

    def _take_all(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.completion_tokens += 1
            self._owed += 1
            self._take(token_id)
            if self.wants_stop:
                break

    def _take(self, token_id: int) -> None:
        if token_id not in self._hidden:
            text = self._detokenizer.step(token_id)
            if text:
                self._content(text)

    def _end(self) -> None:
        self._release(self._stops.flush())

    def _settle(self) -> None:
        ready = not (self.wants_stop or self._owed or self._detokenizer.holding or self._stops.holding)
        self.plain_texts = self._plain_content if ready else NO_TEXTS

    def _content(self, text: str) -> None:
        self._release(self._stops.push(text))
        if self._stops.matched is not None:
            self.stop_string = self._stops.matched
            self.wants_stop = True

    def _release(self, text: str) -> None:
        if text:
            self._emit(Content(text, self._owed))

    def _emit(self, event: TextEvent) -> None:
        self._events.append(event)
        self._owed = 0

    def _drain(self) -> list[TextEvent]:
        events = self._events
        if not events:
            return events
        self._events = []
        return merged(events) if len(events) > 1 else events


class AnswerPipeline(CompletionPipeline):
    """Everything a chat answer may hold. `starts_in_reasoning` is what `text.markers` says of the prompt."""

    __slots__ = (
        "_call",
        "_calls",
        "_lead",
        "_markers",
        "_parallel",
        "_parse_tools",
        "_plain_reasoning",
        "_section",
        "_separate",
        "_space",
        "_tools",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: PipelineSettings,
        *,
        starts_in_reasoning: bool,
        context: Sequence[int] = (),
    ) -> None:
        self._markers = markers_of(tokenizer)
        self._separate = settings.separate_reasoning
        self._parse_tools = settings.parse_tools
        self._tools = settings.tools
        self._parallel = settings.parallel_tool_calls
        self._section = Section.CONTENT
        # What the start of the coming text is stripped of: these characters, any white space if None.
        self._lead: str | None = ""
        # White space at the end of a section, which is text only if more text of the same section follows.
        self._space = ""
        self._call: CallReader | None = None
        self._calls = 0
        self._plain_reasoning: Mapping[int, str | None] = NO_TEXTS
        super().__init__(tokenizer, settings, context=context)
        if self._plain_content is not NO_TEXTS:
            self._plain_reasoning = tokenizer.text_before_newlines if self._separate else tokenizer.plain_text
            if self._parse_tools:
                self._plain_content = self._stops.screened(tokenizer.text_before_space)
        if starts_in_reasoning:
            self._open_reasoning()
            if not self._separate:
                # The opening is in the prompt; who looks for the pair in the content needs it here.
                self._events.append(Content(Marker.THINK_OPEN.value + "\n", 0))
        if starts_in_reasoning or self._parse_tools:  # else nothing has changed since the first time
            self._settle()

    def _take(self, token_id: int) -> None:
        if token_id in self._hidden:
            self.reasoning_tokens += self._thinking
            return
        marker = self._markers.get(token_id)
        if marker is None:
            self.reasoning_tokens += self._thinking
            self._text(self._detokenizer.step(token_id))
            return
        self.reasoning_tokens += self._thinking and marker is not Marker.THINK_CLOSE
        self._text(self._detokenizer.flush())
        if not self.wants_stop:
            self._mark(marker)

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._call is not None:
            self._tell(self._call.push(text))
        elif self._thinking:
            self._think(text)
        else:
            self._content(text)

    def _mark(self, marker: Marker) -> None:
        target = next_section(self._section, marker)
        if target is None or (target is Section.CALL and not self._parse_tools):
            # Some models open the thought again that the prompt has opened.
            if not (marker is Marker.THINK_OPEN and self._thinking and self._lead):
                self._text(marker.value)
            return
        if self._section is Section.CALL:
            self._close_call(marker)
        elif self._section is Section.REASONING:
            self._close_reasoning()
        if self.wants_stop:
            return
        self._section = target
        if target is not Section.CONTENT:
            # A stop string does not reach over a marker.
            self._release(self._stops.flush())
        if target is Section.REASONING:
            self._flush_space()
            if not self._separate:
                self._emit(Content(marker.value, self._owed))
            self._open_reasoning()
        elif target is Section.CALL:
            self._call = CallReader(self._parse_tools, self._tools, self._space + marker.value)
            self._space = ""

    def _open_reasoning(self) -> None:
        self._section = Section.REASONING
        self._thinking = True
        self._lead = "\n"
        self._event = Reasoning if self._separate else Content

    def _think(self, text: str) -> None:
        if not self._separate:
            self._lead = ""
            self._emit(Content(text, self._owed))
            return
        text = self._space + (text.lstrip("\n") if self._lead else text)
        if not text:
            return
        self._lead = ""
        body = text.rstrip("\n")
        self._space = text[len(body) :]
        if body:
            self._emit(Reasoning(body, self._owed))

    def _close_reasoning(self) -> None:
        self._space = ""
        self._thinking = False
        self._lead = "\n"
        self._event = Content
        if not self._separate:
            self._emit(Content(Marker.THINK_CLOSE.value, self._owed))

    def _content(self, text: str) -> None:
        if self._lead != "":
            body = text.lstrip(self._lead)
            if not self._separate and self._lead == "\n":
                # Kept as written, but past the stop strings: a stop at "\n\n" must not end every answer here.
                self._release(text[: len(text) - len(body)])
            if not body:
                return
            self._lead = ""
            text = body
        super()._content(text)
        if self.wants_stop:
            self._flush_space()

    def _release(self, text: str) -> None:
        if not text:
            return
        if self._parse_tools:
            text = self._space + text
            body = text.rstrip()
            self._space = text[len(body) :]
            text = body
        if text:
            self._emit(Content(text, self._owed))

    def _flush_space(self) -> None:
        if self._space:
            self._emit(Content(self._space, self._owed))
            self._space = ""

    def _tell(self, piece: CallPiece) -> None:
        if piece.name is not None:
            self._emit(ToolCallStart(self._calls, piece.name, self._owed))
            self._calls += 1
            self.has_tool_calls = True
        if piece.arguments:
            self._emit(ToolCallArguments(self._calls - 1, piece.arguments, self._owed))
        if piece.content:
            self._content(piece.content)

    def _close_call(self, marker: Marker | None) -> None:
        """Ends the open call: by its own tag, by the next call's, or with the answer."""
        call = self._call
        if call is None:
            return
        self._call = None
        self._lead = ""
        self._tell(call.end(closed=marker is not None, tag=marker is Marker.CALL_CLOSE))
        self.broken_tool_calls += call.broken
        if call.started:
            # White space on either side of the closing tag is none of the content's.
            self._release(self._stops.flush())
            self._space = ""
            self._lead = None
            if call.complete and not self._parallel:
                self.wants_stop = True

    def _end(self) -> None:
        # A thought's last newlines are form even where it was cut short.
        if self._thinking:
            self._space = ""
        self._close_call(None)
        if not self.wants_stop:
            self._release(self._stops.flush())
            self._flush_space()

    def _settle(self) -> None:
        held = self.wants_stop or self._owed or self._events or self._space or self._lead != ""
        if held or self._call is not None or self._detokenizer.holding or self._stops.holding:
            self.plain_texts = NO_TEXTS
        else:
            self.plain_texts = self._plain_reasoning if self._thinking else self._plain_content


@lru_cache(maxsize=64)  # by the tokenizer's identity; nearly all requests have the same end ids
def _hidden_ids(tokenizer: Tokenizer, eos: frozenset[int], skip_special: bool) -> tuple[frozenset[int], bool]:
    """The ids without text, and whether that takes texts from ids that have a plain one.

    Added tokens are never plain, so only ids hidden for one request alone rule the fast path out.
    """
    return eos | tokenizer.special_ids if skip_special else eos, not eos <= tokenizer.added_text.keys()


def merged(events: Sequence[TextEvent]) -> list[TextEvent]:
    """The same events with neighbours of one kind, and of one call, joined."""
    joined: list[TextEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + event.text, last.tokens + event.tokens)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text, last.tokens + event.tokens)
        elif isinstance(event, ToolCallArguments) and isinstance(last, ToolCallArguments) and event.call == last.call:
            joined[-1] = ToolCallArguments(event.call, last.text + event.text, last.tokens + event.tokens)
        else:
            joined.append(event)
    return joined
