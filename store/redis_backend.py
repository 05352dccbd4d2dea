"""The store in Redis or Valkey, 6.2 and later. Needs the `redis` package, which is imported when one is opened.

Where several values must change together a script does it, in one round trip, with the server's clock: those of routers
and workers may differ. All keys of a script carry the same hash tag, so that a cluster has them on one node.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qwenserve.runtime.deadlines import HELD_UP_AGAIN, within
from qwenserve.store.interface import (
    NO_LIMIT,
    WINDOW_PARTS,
    Entry,
    News,
    Page,
    Places,
    StoreRefused,
    StoreUnreachable,
    Taken,
    Window,
)
from qwenserve.store.redis_line import RedisLine
from qwenserve.store.redis_url import Place
from qwenserve.store.resp import command
from qwenserve.store.tls_files import TlsFiles

# Members of one group that are looked at, and expired ones that a renewal clears away.
_MAX_MEMBERS = 10_000
_CLEARED = 500

# KEYS: values by member (hash), time of expiry by member (sorted set).
# ARGV: member, value, milliseconds the lease lasts, most expired members cleared away. Returns nothing.
_RENEW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[4])
for _, member in ipairs(gone) do
  redis.call('HDEL', KEYS[1], member)
  redis.call('ZREM', KEYS[2], member)
end
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[3]) then redis.call('PEXPIRE', key, ARGV[3] + 1000) end
end
"""

# KEYS: as above. ARGV: member. Returns nothing.
_WITHDRAW = """
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
"""

# KEYS: as above. ARGV: most members. Returns members that have not expired and their values, one after the other.
# Writes nothing: a read-only replica can answer.
_MEMBERS = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf', 'LIMIT', 0, ARGV[1])) do
  local value = redis.call('HGET', KEYS[1], member)
  if value then
    found[#found + 1] = member
    found[#found + 1] = value
  end
end
return found
"""

T = TypeVar("T")

# What has a meaning of its own in a pattern of keys.
_SPECIAL = re.compile(r"[*?\[\]\\^]")
_ESCAPED = r"\\\g<0>"
# Keys that a server looks at for one page.
_PAGE = 1000

# What both scripts below know of windows and places (see `store.interface`).
# KEYS: one hash. Its fields: `w:NAME:PART`, what was taken in a part of a window, and `h:HOLDER`, "places:number:until"
# with the time in milliseconds.
_COUNTED = (
    f"local PARTS = {WINDOW_PARTS}\n"
    + """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function part_ms(span) return math.max(1, math.floor(span / PARTS + 0.5)) end
local function held_by(text)
  local places, number, until_ms = string.match(text, '^(%d+):(%d+):(%d+)$')
  return tonumber(places), tonumber(number), tonumber(until_ms)
end
local function hold(key, holder, places, number, ttl)
  local kept = redis.call('HGET', key, 'h:' .. holder)
  if kept then
    local _, newest = held_by(kept)
    if newest and newest > number then return end
  end
  -- None held is noted too: what was said before and arrives later must not count.
  redis.call('HSET', key, 'h:' .. holder, string.format('%d:%d:%d', places, number, now + ttl))
end
local function keep_for(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end
"""
)

# ARGV: holder (empty for none), places it holds, limit of places, number, milliseconds they are its own; then for each
# window its name, cost, limit and milliseconds.
# Returns whether all was taken, whether there was no place, the milliseconds to wait, the time, and for each window
# what is left and the milliseconds until all is.
_TAKE = (
    _COUNTED
    + """
local key, holder = KEYS[1], ARGV[1]
local mine, limit, number, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local parts, spans = {}, {}
for i = 6, #ARGV, 4 do
  parts[ARGV[i]] = {}
  spans[ARGV[i]] = part_ms(tonumber(ARGV[i + 3]))
end
local others = 0
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local name, part = string.match(all[i], '^w:(.+):(%d+)$')
  if name then
    part = tonumber(part)
    local amount = tonumber(all[i + 1])
    if spans[name] and amount and part >= math.floor(now / spans[name]) - PARTS then
      table.insert(parts[name], {part, amount})
    elseif spans[name] then
      redis.call('HDEL', key, all[i])
    end
  else
    local other = string.match(all[i], '^h:(.*)$')
    local places, newest, until_ms = held_by(all[i + 1])
    if until_ms and until_ms <= now then
      redis.call('HDEL', key, all[i])
    elseif until_ms and other == holder then
      if newest > number then mine = places end
    elseif until_ms then
      others = others + places
    end
  end
end
local wait, lasts, told = 0, ttl, {}
local busy = holder ~= '' and others + mine > limit
for i = 6, #ARGV, 4 do
  local name, cost, most = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local used = 0
  table.sort(parts[name], function(a, b) return a[1] < b[1] end)
  for _, each in ipairs(parts[name]) do used = used + each[2] end
  local missing = used + cost - most
  for _, each in ipairs(parts[name]) do
    if missing <= 0 then break end
    missing = missing - each[2]
    if missing <= 0 then wait = math.max(wait, (each[1] + PARTS + 1) * spans[name] - now) end
  end
  lasts = math.max(lasts, (PARTS + 2) * spans[name])
end
local allowed = wait == 0 and not busy
for i = 6, #ARGV, 4 do
  local name, cost, most = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local used, newest = 0, nil
  if allowed and cost > 0 then
    local part = math.floor(now / spans[name])
    redis.call('HINCRBY', key, string.format('w:%s:%d', name, part), cost)
    used, newest = cost, part
  end
  for _, each in ipairs(parts[name]) do
    used = used + each[2]
    if each[2] > 0 then newest = math.max(newest or 0, each[1]) end
  end
  told[#told + 1] = most - used
  told[#told + 1] = newest and (newest + PARTS + 1) * spans[name] - now or 0
end
if allowed then
  if holder ~= '' then hold(key, holder, mine, number, ttl) end
  keep_for(key, lasts)
end
return {allowed and 1 or 0, busy and 1 or 0, wait, now, told}
"""
)

# ARGV: holder (empty for none), places it holds, number, milliseconds they are its own, the time of what is given back;
# then for each window its name, what is given back, and milliseconds. Returns nothing.
_GIVE_BACK = (
    _COUNTED
    + """
local key, holder, at = KEYS[1], ARGV[1], tonumber(ARGV[5])
for i = 6, #ARGV, 3 do
  local field = string.format('w:%s:%d', ARGV[i], math.floor(at / part_ms(tonumber(ARGV[i + 2]))))
  local used = tonumber(redis.call('HGET', key, field))
  if used then redis.call('HSET', key, field, string.format('%d', math.max(0, used - tonumber(ARGV[i + 1])))) end
end
if holder ~= '' then
  hold(key, holder, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
  keep_for(key, tonumber(ARGV[4]))
end
"""
)


# KEYS: the log (a stream). ARGV: value, most values, milliseconds it is kept. Returns nothing.
_APPEND = """
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*', 'v', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""


class RedisBackend:
    """Talks to one deployment. `password_file` is read at every new connection, so that a password can change."""

    remote = True

    def __init__(
        self,
        place: Place,
        *,
        prefix: str,
        password_file: str = "",
        tls: TlsFiles | None = None,
        connections: int = 16,
    ) -> None:
        """Connects to nothing yet; `tls` is for a place with TLS. Raises ImportError where the `redis` package is
        missing.
        """
        self._prefix = prefix
        self._values = f"{prefix}:v:"
        self._place = place
        self._password_file = password_file
        self._tls = tls or TlsFiles()
        self._stamp = self._tls.stamp()
        self._new_clients = functools.partial(_clients, place, password_file, self._tls)
        self._client, *self._beside = self._new_clients()
        self._cluster = place.kind == "cluster"
        # A cluster's nodes have places of their own.
        self.lists_keys = not self._cluster
        self._learning = asyncio.Lock()
        # Not in a cluster, whose commands go to different nodes.
        self._line = RedisLine(self._connect, primary_only=place.kind == "sentinel")
        # Bounds connections: a client opens another one where all of its own are busy.
        self._turns = asyncio.Semaphore(connections)

    async def ping(self) -> None:
        """See Backend."""
        # Not PING: a server that is loading its data or waits for a password answers that it does, in a cluster any
        # node would, and this asks for what every call asks for.
        await self.get("ping", 0)

    def get(self, key: str, max_bytes: int, limit_s: float = NO_LIMIT) -> Awaitable[bytes | None]:
        """See Backend. The range of a missing key is empty."""
        if self._cluster:
            work = self._call(self._client.getrange(self._values + key, 0, max_bytes))
            return _limited(limit_s, work)
        asked = command("GETRANGE", self._values + key, 0, max_bytes)
        return self._line.ask(asked, limit_s)  # type: ignore[return-value]  # a range is bytes

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """See Backend."""
        await self.put_all([(key, value)], ttl_s)

    async def put_all(
        self, values: Sequence[tuple[str, bytes]], ttl_s: float, limit_s: float = NO_LIMIT, news: News | None = None
    ) -> None:
        """See Backend."""
        ttl = _ms(ttl_s)
        if self._cluster:
            puts = asyncio.gather(
                *[self._call(self._client.set(self._values + key, value, px=ttl)) for key, value in values]
            )
            await _limited(limit_s, puts)
            if news is not None:
                await _limited(limit_s, self.append(*news))
        elif values:
            commands = [command("PSETEX", self._values + key, ttl, value) for key, value in values]
            if news is not None:
                commands.append(command("EVAL", _APPEND, 1, *self._appended(*news)))
            await self._line.ask(b"".join(commands), limit_s, len(commands))

    async def delete(self, key: str) -> None:
        """See Backend."""
        await self._call(self._client.delete(self._values + key))

    async def keys(self, begin: str, place: int) -> Page:
        """See Backend."""
        pattern = f"{_SPECIAL.sub(_ESCAPED, self._values + begin)}*"
        following, found = await self._call(self._client.scan(place, pattern, _PAGE))
        return Page([key[len(self._values) :].decode(errors="replace") for key in found], following)

    async def append(self, key: str, value: bytes, keep: int, ttl_s: float) -> None:
        """See Backend."""
        await self._call(self._client.eval(_APPEND, 1, *self._appended(key, value, keep, ttl_s)))

    async def since(self, key: str, after: str, limit: int) -> Sequence[Entry]:
        """See Backend."""
        found = await self._call(self._client.xrange(self._key("s", key), f"({after}" if after else "-", "+", limit))
        return [Entry(place.decode(), fields.get(b"v", b"")) for place, fields in found]

    async def renew(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """See Backend."""
        await self._call(self._client.eval(_RENEW, 2, *self._group(group), member, value, _ms(ttl_s), _CLEARED))

    async def withdraw(self, group: str, member: str) -> None:
        """See Backend."""
        await self._call(self._client.eval(_WITHDRAW, 2, *self._group(group), member))

    async def members(self, group: str) -> Mapping[str, bytes]:
        """See Backend."""
        found = await self._call(self._client.eval(_MEMBERS, 2, *self._group(group), _MAX_MEMBERS))
        pairs = iter(found)
        return {member.decode(errors="replace"): value for member, value in zip(pairs, pairs, strict=True)}

    async def take(self, scope: str, windows: Sequence[Window], places: Places | None) -> Taken:
        """See Backend."""
        holder, held, number, ttl_ms = _held(places)
        arguments: list[str | int] = [holder, held, places.limit if places is not None else 0, number, ttl_ms]
        for window in windows:
            arguments += (window.name, window.cost, window.limit, _ms(window.span_s))
        told = await self._call(self._client.eval(_TAKE, 1, self._key("b", scope), *arguments))
        allowed, busy, wait_ms, now_ms, states = told
        full = tuple(ms / 1000 for ms in states[1::2])
        return Taken(bool(allowed), wait_ms / 1000, tuple(states[::2]), full, now_ms, bool(busy))

    async def give_back(self, scope: str, at_ms: int, windows: Sequence[Window], places: Places | None) -> None:
        """See Backend."""
        arguments: list[str | int] = [*_held(places), at_ms]
        for window in windows:
            arguments += (window.name, window.cost, _ms(window.span_s))
        await self._call(self._client.eval(_GIVE_BACK, 1, self._key("b", scope), *arguments))

    async def close(self) -> None:
        """See Backend."""
        await self._line.close()
        await _close([self._client, *self._beside])

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    def _appended(self, log: str, value: bytes, keep: int, ttl_s: float) -> tuple[str, bytes, int, int]:
        """Returns the key and the arguments of `_APPEND`."""
        return self._key("s", log), value, keep, _ms(ttl_s)

    def _group(self, group: str) -> tuple[str, str]:
        tagged = f"{self._prefix}:l:{{{group}}}"
        return f"{tagged}:values", f"{tagged}:until"

    async def _take_new_certificates(self) -> None:
        """Begins again with clients that have read the files as they are, if those have changed: a client reads them
        once. Open connections do not mind old ones, so this is for a server that was not reached.
        """
        stamp = self._tls.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            old = [self._client, *self._beside]
            self._client, *self._beside = self._new_clients()
            await _close(old)

    async def _connect(self, protocol: asyncio.Protocol) -> Sequence[bytes]:
        """Connects the line; returns what has to be said first. Files may have changed, and are read anew."""
        loop, place = asyncio.get_running_loop(), self._place
        greeting = []
        password = place.password
        if self._password_file:
            password = _password_in(Path(self._password_file).expanduser())
        if password:
            login = (place.username, password) if place.username else (password,)
            greeting.append(command("AUTH", *login))
        if place.db:
            greeting.append(command("SELECT", place.db))
        if place.socket:
            await loop.create_unix_connection(lambda: protocol, place.socket)
            return greeting
        if place.kind == "sentinel":
            with _translated():
                host, port = await self._client.connection_pool.get_master_address()
        else:
            [(host, port)] = place.hosts
        context = self._tls.context() if place.tls else None
        await loop.create_connection(lambda: protocol, host, port, ssl=context)
        return greeting

    async def _call(self, command: Awaitable[Any]) -> Any:
        try:
            async with self._turns:
                with _translated():
                    if self._cluster:
                        # Of many first commands at a time some are sent to the wrong nodes (redis 8.1), and the fifth
                        # node that says so makes the client close every connection.
                        async with self._learning:
                            await self._client.initialize()
                    return await command
        except StoreUnreachable:
            await self._take_new_certificates()
            raise
        finally:
            # Where no turn came in time, the command was never begun.
            close = getattr(command, "close", None)
            if close is not None:
                close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from redis import exceptions

    try:
        yield
    except (exceptions.ConnectionError, exceptions.TimeoutError, OSError, asyncio.TimeoutError) as error:
        # Wrong passwords and servers that are still loading are among the first kind.
        raise StoreUnreachable(_reason(error)) from None
    except exceptions.ResponseError as error:
        if isinstance(error, exceptions.NoPermissionError) or str(error).startswith(("NOAUTH", "WRONGPASS")):
            raise StoreUnreachable(_reason(error)) from None
        raise StoreRefused(_reason(error)) from None
    except exceptions.RedisError as error:
        # What a cluster's client says when no node is to be had.
        raise StoreUnreachable(_reason(error)) from None


def _limited(limit_s: float, work: Awaitable[T]) -> Awaitable[T]:
    return work if limit_s == NO_LIMIT else within(limit_s, work, again=HELD_UP_AGAIN)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _held(places: Places | None) -> tuple[str, int, int, int]:
    return (places.holder, places.held, places.number, _ms(places.ttl_s)) if places is not None else ("", 0, 0, 0)


async def _close(clients: Sequence[Any]) -> None:
    for client in clients:
        with contextlib.suppress(Exception):  # it is not used any more: errors in closing change nothing
            await client.aclose()


def _clients(place: Place, password_file: str, tls: TlsFiles) -> list[Any]:
    """Returns the client to use, and after it those that only have to be closed."""
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {
        # The time limits of `store.shared` hold: a second set here would only turn one error into two.
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "protocol": 2,
        # Once more at once, for a connection that the server closed meanwhile; never waiting in between.
        "retry": Retry(NoBackoff(), 1),
    }
    if place.tls:
        options.update(
            ssl=True,
            ssl_ca_certs=tls.authority or None,
            ssl_certfile=tls.chain or None,
            ssl_keyfile=tls.key or None,
        )
    if password_file:
        options["credential_provider"] = _password_of(place.username, Path(password_file).expanduser())
    elif place.password:
        options["password"] = place.password
        options["username"] = place.username or None
    if place.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in place.hosts]
        return [RedisCluster(startup_nodes=nodes, **options)]
    if place.kind == "sentinel":
        # Sentinels have passwords of their own; what is configured is the servers'.
        asked = {key: value for key, value in options.items() if key not in ("password", "username")}
        sentinel = Sentinel(list(place.hosts), sentinel_kwargs=_without(asked, "credential_provider"), db=place.db)
        return [sentinel.master_for(place.service, **options), *sentinel.sentinels]
    if place.socket:
        return [Redis(unix_socket_path=place.socket, db=place.db, **options)]
    [(host, port)] = place.hosts
    return [Redis(host=host, port=port, db=place.db, **options)]


def _without(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def _password_of(username: str, file: Path) -> Any:
    from redis.credentials import CredentialProvider

    class FromFile(CredentialProvider):
        def get_credentials(self) -> tuple[str] | tuple[str, str]:
            password = _password_in(file)
            return (username, password) if username else (password,)

    return FromFile()


def _password_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnreachable(f"store.password_file: cannot read {file}: {error}") from None
