"""Kept answers to similar prompts: what was asked before, found again by meaning, and guarded by rules.

What routers have learned lies in the store: for each group of prompts that differ in their last message only (same
tenant, model, system prompt, tools, sampling) a log of texts, their embeddings, and the keys of their answers. A router
keeps a copy and asks for what was added since it last looked. Two texts match where the rules of `answers.asked` reduce
them to the same, and their embeddings are as near as is asked for; the nearest one wins.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from qwenserve.cluster.v1 import recorded_answer_pb2
from qwenserve.router.answers.asked import Asked, asked
from qwenserve.router.answers.embedders import Embedder, Vector, unit
from qwenserve.router.answers.policy import is_answer_key
from qwenserve.router.answers.question import MAX_TEXT, Match, Question
from qwenserve.runtime.config import CacheConfig
from qwenserve.store.shared import SharedStore

_MAX_ENTRY_BYTES = 16 * 1024
# Entries of all groups that a router has a copy of; each takes some 3 KB.
_MAX_COPIED = 20_000
_ANSWER_ID = re.compile(r"[A-Za-z0-9_.\-]{1,128}\Z")


class _Entry(NamedTuple):
    vector: Vector
    match: Match


class _Group:
    __slots__ = ("count", "known", "last")

    def __init__(self) -> None:
        self.last = ""
        self.count = 0
        self.known: dict[Asked, list[_Entry]] = {}


class SimilarPrompts:
    """What was asked before, and is answered in the store."""

    def __init__(self, store: SharedStore, embedder: Embedder, config: CacheConfig) -> None:
        self._store = store
        self._embedder = embedder
        self._entries = config.similar.entries
        self._ttl_s = config.max_age_s
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self.copied = 0

    @property
    def space(self) -> str:
        """What vectors can be compared with."""
        return self._embedder.space

    async def matches(self, wanted: Question, threshold: float) -> Sequence[Match]:
        """Returns earlier prompts that ask the same and are near enough, the nearest one first.

        Waits for the store once, and for the embedder only where the rules let an earlier prompt through.
        """
        group = await self._followed(wanted.group)
        candidates = group.known.get(wanted.asked, [])
        if not candidates:
            return []
        vector = await self._embedder.embed(wanted.text)
        if vector is None:
            return []
        found = [
            each.match._replace(score=min(1.0, float(each.vector @ vector)))
            for each in candidates
            if each.vector.shape == vector.shape
        ]
        return sorted((match for match in found if match.score >= threshold), reverse=True)

    async def learn(self, wanted: Question, answer_key: str, answer_id: str) -> None:
        """Notes that a prompt is answered in the store."""
        vector = await self._embedder.embed(wanted.text)
        if vector is None:
            return
        entry = recorded_answer_pb2.LearnedPrompt(
            text=wanted.text,
            embedding=np.rint(vector * 127).astype(np.int8).tobytes(),
            answer_key=answer_key,
            answer_id=answer_id,
        )
        await self._store.append(wanted.group, entry.SerializeToString(), keep=self._entries, ttl_s=self._ttl_s)

    async def close(self) -> None:
        """Ends the embedder."""
        await self._embedder.close()

    async def _followed(self, name: str) -> _Group:
        """Returns the copy of a group, with what was added to it meanwhile."""
        group = self._groups.get(name)
        added = await self._store.since(
            name, "" if group is None else group.last, limit=self._entries, max_bytes=_MAX_ENTRY_BYTES
        )
        group = self._groups.get(name)  # another request may have looked as well
        if group is None:
            group = _Group()
            if added:
                self._groups[name] = group
        else:
            self._groups.move_to_end(name)
        for place, payload in added or ():
            if group.last and _after(group.last, place):
                continue
            group.last = place
            if payload is not None:
                self._add(group, payload)
        while self.copied > _MAX_COPIED and len(self._groups) > 1:
            self.copied -= self._groups.popitem(last=False)[1].count
        return group

    def _add(self, group: _Group, payload: bytes) -> None:
        read = _read(payload)
        if read is None:
            self._store.disbelieve("not a learned prompt")
            return
        reduced, entry = read
        if group.count >= 2 * self._entries:
            # The store has let go of the first half; what is forgotten here was the first to be learned.
            self.copied -= group.count
            group.known.clear()
            group.count = 0
        group.known.setdefault(reduced, []).append(entry)
        group.count += 1
        self.copied += 1


def _read(payload: bytes) -> tuple[Asked, _Entry] | None:
    try:
        learned = recorded_answer_pb2.LearnedPrompt.FromString(payload)
    except DecodeError:
        return None
    vector = unit(np.frombuffer(learned.embedding, np.int8).astype(np.float32))
    usable = is_answer_key(learned.answer_key) and _ANSWER_ID.match(learned.answer_id)
    if vector is None or not usable or not 0 < len(learned.text) <= MAX_TEXT:
        return None
    return asked(learned.text), _Entry(vector, Match(0.0, learned.answer_id, learned.answer_key))


def _after(place: str, other: str) -> bool:
    """Whether `place` is `other`, or behind it."""
    numbers = [tuple(map(int, each.split("-"))) for each in (place, other)]
    return numbers[0] >= numbers[1]
