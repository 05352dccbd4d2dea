"""The log-probabilities of a prompt's own tokens, as they come before an answer's first token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenserve.router.clients.logprobs import unpacked
from qwenserve.text.tokenizer import Tokenizer
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2


class PromptScores:
    """Those of one prompt, with texts. `top` is the number of alternatives asked for. `on_more`, where set, is called
    when some have come; it must not raise.
    """

    __slots__ = ("_prompt", "_tokenizer", "items", "on_more", "top")

    def __init__(self, prompt: Sequence[int], top: int, tokenizer: Tokenizer) -> None:
        self.top = top
        self._prompt = prompt
        self._tokenizer = tokenizer
        self.items: list[sampling_pb2.TokenLogprob] = []
        self.on_more: Callable[[], None] | None = None
        self.restart()

    @property
    def complete(self) -> bool:
        """Whether all have come."""
        return len(self.items) >= len(self._prompt)

    def restart(self) -> None:
        """Forgets what has come: another worker starts over. Nothing precedes the first token, so it has none."""
        first = sampling_pb2.TokenLogprob(token_id=self._prompt[0], no_logprob=True)
        write_texts(first, self._tokenizer)
        self.items = [first]

    def take(self, run: worker_pb2.PromptLogprobRun) -> None:
        """Takes the next ones. Those of ids after the prompt, of a leg that goes on with an answer, are left out.

        Raises WorkerLost where the arrays do not fit together.
        """
        if run.start != len(self.items):
            return
        ids = self._prompt[run.start : run.start + len(run.logprobs)]
        for item in unpacked(ids, run.logprobs, (), run.top_token_ids, run.top_logprobs)[: len(ids)]:
            write_texts(item, self._tokenizer)
            self.items.append(item)
        if self.on_more is not None:
            self.on_more()


def write_texts(item: sampling_pb2.TokenLogprob, tokenizer: Tokenizer) -> None:
    """Writes the texts of a token and of its alternatives."""
    item.token = tokenizer.token_text(item.token_id)
    item.token_bytes = tokenizer.token_bytes(item.token_id)
    for top in item.top_logprobs:
        top.token = tokenizer.token_text(top.token_id)
        top.token_bytes = tokenizer.token_bytes(top.token_id)
