"""Token ids of one answer in, typed text events out.

    ids ▶ markers ▶ detokenizer ▶ stop strings ▶ reasoning | content | tool calls ▶ events

One object serves one choice of one request. Ids are taken one by one, so any split of the same ids gives the same
answer. What a reader of the events may rely on:

- Newlines beside `<think>` and `</think>` belong to the form and are no text. White space around a tool call is none
  either. With `separate_reasoning` off, thoughts stay in the content as written.
- Stop strings are matched on content only. A stop string in a thought or in a call's arguments ends nothing.
- Tool calls are looked for only where the request has tools: in content, at the end of a thought that never closes
  (`text.thought_calls`), and in an answer that is JSON as calls are (`text.untagged_calls`). A text that is no call, or
  that names an unknown function, comes back as content exactly as generated. A call is made whole where it was not
  (`text.json_repair`); only one that is cut short by the answer's end keeps arguments that are no JSON, and
  `has_cut_call` says so. One that lacks its closing brackets or tags alone is whole where the model ended the answer.
- A marker inside a call's argument is text of the argument. `</tool_call>` is the end nevertheless where nothing, or
  another call, follows it.
- Special tokens and end ids have no text. Characters cut off by the end of the answer are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from qwenserve.runtime.values import frozen_value
from qwenserve.text.call_reader import CallPiece, CallReader
from qwenserve.text.detokenizer import Detokenizer
from qwenserve.text.events import Content, Reasoning, TextEvent, ToolCallArguments, ToolCallStart
from qwenserve.text.markers import Marker, Section, markers_of, next_section, starts_in_reasoning
from qwenserve.text.stop_strings import NO_STOPS, StopMatcher
from qwenserve.text.thought_calls import ThoughtCalls
from qwenserve.text.tokenizer import Tokenizer
from qwenserve.text.tool_calls import ToolSchemas
from qwenserve.text.untagged_calls import BEGINNINGS, UntaggedCalls
from qwenserve.text.xml_call import FUNCTION

__all__ = [
    "NO_TEXTS",
    "AnswerPipeline",
    "CompletionPipeline",
    "PipelineSettings",
    "ScoringPipeline",
    "merged",
    "starts_in_reasoning",
]


# White space beside a marker is held until it is known whether it belongs to the form; no form has more than this.
_MOST_SPACE = 1_000


@frozen_value
class PipelineSettings:
    """How an answer is to be read.

    `parse_tools` is the form in which the template wants calls, "hermes" or "xml", empty for none at all. Both forms
    are read between the tags of a call; without tags only "xml" is, where the template wants that, and with `untagged`
    JSON that is the whole answer.
    `tools` maps function names to parameter schemas (`text.tool_calls.tool_schemas`); None accepts any name.
    `eos_token_ids` are ids whose text is never shown, the request's stop token ids among them.
    """

    stop_strings: tuple[str, ...] = ()
    include_stop_string: bool = False
    separate_reasoning: bool = True
    parse_tools: str = ""
    tools: ToolSchemas | None = None
    parallel_tool_calls: bool = True
    untagged: bool = False
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
        "has_cut_call",
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
        self.has_cut_call = False
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
    def thinking(self) -> bool:
        """Whether a thought is open."""
        return self._thinking

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

    def finish(self, *, stopped: bool = False) -> list[TextEvent]:
        """Ends the answer; returns what was held, and accounts for every id. `stopped`: the model has ended it, by an
        end token, and it was not cut short.
        """
        if not self.wants_stop:
            self._end(stopped)
            self.wants_stop = True
            self.plain_texts = NO_TEXTS
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

    def _end(self, stopped: bool) -> None:
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
            return []  # not the list that events still to come are put into
        self._events = []
        return merged(events) if len(events) > 1 else events


class ScoringPipeline(CompletionPipeline):
    """For completions that are to have no text of their own: the prompt alone is wanted. An engine generates one token
    all the same; it counts for nothing.
    """

    __slots__ = ()

    def push(self, token_ids: Sequence[int]) -> list[TextEvent]:
        """Ends the answer."""
        self.wants_stop = True
        return []

    def _settle(self) -> None:
        self.plain_texts = NO_TEXTS


class AnswerPipeline(CompletionPipeline):
    """Everything a chat answer may hold. `starts_in_reasoning` is what `text.markers` says of the prompt."""

    __slots__ = (
        "_aside",
        "_bare",
        "_begins",
        "_call",
        "_calls",
        "_close_pending",
        "_lead",
        "_markers",
        "_parallel",
        "_parse_tools",
        "_plain_reasoning",
        "_section",
        "_separate",
        "_space",
        "_tag_pending",
        "_tag_stray",
        "_tools",
        "_untagged",
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
        # White space at the end of a section, which counts as text only if more text of the same section follows.
        self._space = ""
        self._call: CallReader | None = None
        self._calls = 0
        # `</tool_call>` inside an argument and white space behind it, until it is known to be text or the call's end.
        self._close_pending = ""
        # The end of the content, where it may be the beginning of a call without tags around it.
        self._bare = self._parse_tools == "xml"
        self._tag_pending = ""
        # Whether the next `</tool_call>` belongs to such a call.
        self._tag_stray = False
        # Whether no text of the content has come yet, and it may be calls without tags; what may be such calls.
        self._begins = settings.untagged and bool(self._parse_tools and self._tools)
        self._untagged: UntaggedCalls | None = None
        # What may be calls at the end of a thought that never closes.
        self._aside: ThoughtCalls | None = None
        self._plain_reasoning: Mapping[int, str | None] = NO_TEXTS
        super().__init__(tokenizer, settings, context=context)
        if self._plain_content is not NO_TEXTS:
            self._plain_reasoning = tokenizer.text_before_newlines if self._separate else tokenizer.plain_text
            if self._parse_tools:
                self._plain_content = self._stops.screened(
                    _without_tags(tokenizer) if self._bare else tokenizer.text_before_space
                )
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
            if self._close_pending:
                space = text.isspace()
                text = self._close_pending + text
                if space and len(text) <= _MOST_SPACE:
                    self._close_pending = text
                    return
                self._close_pending = ""
            self._read_call(text)
        elif self._aside is not None:
            if not self._aside.push(text):
                self._end_aside()
        elif self._thinking:
            self._think(text)
        else:
            self._content(text)

    def _mark(self, marker: Marker) -> None:
        if self._aside is not None and marker is not Marker.THINK_CLOSE:
            if not self._aside.mark(marker):
                self._end_aside()
            return
        if self._untagged is not None and self._mark_untagged(self._untagged, marker):
            return
        if self._call is not None and self._call.in_value and self._mark_value(marker):
            return
        target = next_section(self._section, marker)
        if target is None or (target is Section.CALL and not self._parse_tools):
            self._mark_text(marker)
            return
        if self._section is Section.CALL:
            # A tag that was held back is the end after all, with the opening of the next call behind it.
            self._close_call(Marker.CALL_CLOSE if self._close_pending else marker)
        elif self._section is Section.REASONING:
            self._close_reasoning()
        if self.wants_stop:
            return
        self._section = target
        self._tag_stray = False
        if target is not Section.CONTENT:
            # Neither a stop string nor a tag reaches over a marker.
            self._flush_tag()
            self._release(self._stops.flush())
        if target is Section.REASONING:
            self._flush_space()
            if not self._separate:
                self._emit(Content(marker.value, self._owed))
            self._open_reasoning()
        elif target is Section.CALL:
            self._begins = False
            self._call = CallReader(self._tools, self._space + marker.value)
            self._space = ""

    def _mark_value(self, marker: Marker) -> bool:
        """Takes a marker inside an argument. Returns whether that settles it: it is text, or is held for now."""
        if marker is Marker.CALL_CLOSE:
            if self._close_pending:
                self._read_call(self._close_pending)  # the one before was text
            self._close_pending = marker.value
            return True
        if marker is Marker.CALL_OPEN and self._close_pending:
            return False
        self._text(marker.value)
        return True

    def _mark_text(self, marker: Marker) -> None:
        """Takes a marker that means nothing in this section."""
        if self._thinking and marker is Marker.CALL_OPEN and self._parse_tools:
            self._aside = ThoughtCalls(self._tools)
        elif self._tag_stray and marker is Marker.CALL_CLOSE:
            self._tag_stray = False
            self._lead = None
        # Some models open the thought again that the prompt has opened.
        elif not (marker is Marker.THINK_OPEN and self._thinking and self._lead):
            self._text(marker.value)

    def _end_aside(self) -> None:
        """The calls in the thought are text of it."""
        aside = self._aside
        self._aside = None
        if aside is not None:
            self._think(aside.text)

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
        body = text.rstrip("\n") if len(self._space) <= _MOST_SPACE else text
        self._space = text[len(body) :]
        if body:
            self._emit(Reasoning(body, self._owed))

    def _close_reasoning(self) -> None:
        self._end_aside()
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
        if self._untagged is not None:
            if not self._untagged.push(text):
                self._end_untagged(self._untagged)
            return
        if self._begins and not text.isspace():
            self._begins = False
            body = text.lstrip()
            if self._tools and body.startswith(BEGINNINGS):
                self._plain(text[: len(text) - len(body)])
                self._untagged = UntaggedCalls(self._tools)
                self._content(body)
                return
        if not self._bare:
            self._plain(text)
            return
        text = self._tag_pending + text
        at = text.find(FUNCTION)
        if at >= 0:
            self._tag_pending = ""
            self._plain(text[:at])
            if not self.wants_stop:
                self._open_bare(text[at:])
            return
        at = _tag_begin(text)
        self._tag_pending = text[at:]
        self._plain(text[:at])

    def _mark_untagged(self, untagged: UntaggedCalls, marker: Marker) -> bool:
        """Takes a marker where the content may be calls without tags. Returns whether that is all that it means."""
        if untagged.in_value:
            self._content(marker.value)
            return True
        if not untagged.whole or marker not in (Marker.CALL_OPEN, Marker.CALL_CLOSE):
            self._end_untagged(untagged)
            return False
        self._take_untagged(untagged)
        return marker is Marker.CALL_CLOSE

    def _take_untagged(self, untagged: UntaggedCalls) -> None:
        """What was held back is calls."""
        self._untagged = None
        self._release(self._stops.flush())
        self._space = ""
        self._lead = None
        for call in untagged.calls if self._parallel else untagged.calls[:1]:
            self._tell(CallPiece(call.name, call.arguments))
        self.wants_stop |= not self._parallel

    def _end_untagged(self, untagged: UntaggedCalls) -> None:
        """What was held back is text."""
        self._untagged = None
        self._content(untagged.text)

    def _plain(self, text: str) -> None:
        """Content that is no call."""
        if text:
            super()._content(text)
            if self.wants_stop:
                self._flush_space()

    def _flush_tag(self) -> None:
        text, self._tag_pending = self._tag_pending, ""
        self._plain(text)

    def _open_bare(self, text: str) -> None:
        """What may be a call without tags around it; it comes back as content where it is none."""
        self._release(self._stops.flush())
        self._call = CallReader(self._tools, self._space, bare=True)
        self._space = ""
        self._section = Section.CALL
        self._read_call(text)

    def _release(self, text: str) -> None:
        if not text:
            return
        if self._parse_tools:
            whole = self._space + text
            body = whole.rstrip() if len(self._space) <= _MOST_SPACE else whole
            self._space = whole[len(body) :]
            text = body
        if text:
            self._emit(Content(text, self._owed))

    def _flush_space(self) -> None:
        if self._space:
            self._emit(Content(self._space, self._owed))
            self._space = ""

    def _read_call(self, text: str) -> None:
        """Reads on in the open call, and in those that follow it in the same text."""
        while text and self._call is not None and not self.wants_stop:
            call = self._call
            self._tell(call.push(text))
            text = ""
            if call.bare and call.broken:
                # Not counted as a broken call: most often the answer only mentions such a tag.
                self._call = None
                self._section = Section.CONTENT
            elif call.ended:
                text = call.rest
                self._call = None
                self._lead = ""
                self._count(call)
                if call.bare:
                    self._section = Section.CONTENT
                    self._tag_stray = True
                    if text and not self.wants_stop:
                        self._content(text)
                    return
                # Models write several calls between the same tags.
                self._call = CallReader(self._tools, behind=True)

    def _tell(self, piece: CallPiece) -> None:
        if piece.name is not None:
            self._emit(ToolCallStart(self._calls, piece.name, self._owed))
            self._calls += 1
            self.has_tool_calls = True
        if piece.arguments:
            self._emit(ToolCallArguments(self._calls - 1, piece.arguments, self._owed))
        # Not looked through for calls once more.
        self._plain(piece.content)

    def _close_call(self, marker: Marker | None, stopped: bool = False) -> None:
        """Ends the open call: by its own tag, by the next call's, or with the answer."""
        call = self._call
        if call is None:
            return
        self._call = None
        self._close_pending = ""
        self._lead = ""
        self._tell(call.end(closed=marker is not None, tag=marker is Marker.CALL_CLOSE, stopped=stopped))
        self._count(call)
        if call.behind and call.broken:
            self._lead = None

    def _count(self, call: CallReader) -> None:
        """Takes the outcome of a call that has ended."""
        self.broken_tool_calls += call.broken
        if call.started:
            self.has_cut_call |= not call.complete
            # White space on either side of the closing tag is none of the content's.
            self._release(self._stops.flush())
            self._space = ""
            self._lead = None
            if call.complete and not self._parallel:
                self.wants_stop = True

    def _take_aside(self, aside: ThoughtCalls, stopped: bool) -> None:
        """The answer has ended inside a thought, with what may be calls."""
        calls = aside.finish(stopped=stopped)
        if not calls:
            self._end_aside()
            return
        self._aside = None
        for call in calls if self._parallel else calls[:1]:
            self._tell(CallPiece(call.name, call.arguments))

    def _end(self, stopped: bool) -> None:
        if self._aside is not None:
            self._take_aside(self._aside, stopped)
        # A thought's last newlines are form even where it was cut short.
        if self._thinking:
            self._space = ""
        if self._call is not None:
            self._close_call(Marker.CALL_CLOSE if self._close_pending else None, stopped)
        if self._untagged is not None:
            if self._untagged.finish(stopped=stopped):
                self._take_untagged(self._untagged)
            else:
                self._end_untagged(self._untagged)
        if not self.wants_stop:
            if self._tag_pending:
                self._flush_tag()
            self._release(self._stops.flush())
            if self._space:
                self._flush_space()

    def _settle(self) -> None:
        held = self.wants_stop or self._owed or self._events or self._space or self._lead != ""
        if self._parse_tools and not held:
            reads = self._call is not None or self._aside is not None or self._untagged is not None
            held = reads or self._tag_pending
        if held or self._detokenizer.holding or self._stops.holding:
            self.plain_texts = NO_TEXTS
        else:
            # The beginning of the content is looked at.
            content = NO_TEXTS if self._begins else self._plain_content
            self.plain_texts = self._plain_reasoning if self._thinking else content


@lru_cache(maxsize=8)  # by the tokenizer's identity
def _without_tags(tokenizer: Tokenizer) -> Mapping[int, str | None]:
    """The plain texts of content that may hold calls without tags around them."""
    return StopMatcher((FUNCTION,)).screened(tokenizer.text_before_space)


def _tag_begin(text: str) -> int:
    """Where the longest ending of `text` begins that a call without tags begins with."""
    at = text.find(FUNCTION[0], max(0, len(text) - len(FUNCTION) + 1))
    while at >= 0 and not FUNCTION.startswith(text[at:]):
        at = text.find(FUNCTION[0], at + 1)
    return len(text) if at < 0 else at


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
