"""Redis's protocol: replies come whole however they are cut, and what is none is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.store.resp import BadReply, Replies, Reply, ReplyError, command

LINES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
REPLIES = st.one_of(
    st.none(),
    st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
    LINES.map(lambda text: ReplyError(text)),
)


def written(reply: Reply) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, ReplyError):
        return b"-%b\r\n" % str(reply).encode()
    return b"$%d\r\n%b\r\n" % (len(reply), reply)


def shown(replies: list[Reply]) -> list[object]:
    return [str(reply) if isinstance(reply, ReplyError) else reply for reply in replies]


@settings(max_examples=60, deadline=None)
@given(st.lists(REPLIES, max_size=8), st.lists(st.integers(0, 2000), max_size=8))
def test_replies_come_whole_however_they_are_cut(replies: list[Reply], cuts: list[int]):
    """Wherever a connection's pieces begin and end, the same replies come out, each once and in order."""
    data = b"".join(map(written, replies))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = Replies(300)
    found = [reply for begin, end in itertools.pairwise(edges) for reply in reader.feed(data[begin:end])]
    assert shown(found) == shown(replies)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_what_is_no_reply_is_refused_or_waited_for(data: bytes, cut: int):
    """Any bytes give replies, or BadReply, and nothing else."""
    reader = Replies(100)
    try:
        for piece in (data[:cut], data[cut:]):
            assert all(reply is None or isinstance(reply, (bytes, int, ReplyError)) for reply in reader.feed(piece))
    except BadReply:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"$200000\r\n" + b"x" * 100_000,
        b"$1_0\r\n",
        b"$ 1\r\n",
        b":x\r\n",
        b":\r\n",
        b"*1\r\n+OK\r\n",
        b"HTTP/1.1 400\r\n",
        b"+" + b"x" * 70_000,
    ],
)
def test_refused(data: bytes):
    """Longer than was asked for, no numbers, lists, another protocol, and a line without an end."""
    with pytest.raises(BadReply):
        Replies(100).feed(data)


def test_commands():
    """Words of any bytes, each with its length."""
    assert command(b"SET", b"a\r\n", b"") == b"*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$0\r\n\r\n"
