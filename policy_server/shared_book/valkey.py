"""
The connection to Valkey or Redis, whose script is the book: one that is away, or not fit to keep
a book, is told in our own words.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from zlib import crc32

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from policy_server.errors import Unavailable
from policy_server.metrics import ServerMetrics
from policy_server.shared_book.calls import Argument, Reply
from policy_server.shared_book.errors import BookFenced, BookLost, UnfitValkey
from policy_server.shared_book.source import read_source

#: Parts of the book that are locked, read and written each for itself: a call holds up the others
#: for as long as one part takes. In a cluster they lie on different nodes.
SHARDS = 16
_TIMEOUT_SECONDS = 2.0
_MOST_CONNECTIONS = 2 * SHARDS
_LEAST_VERSION = (6, 2)
#: A shard, what is asked of it, and arguments.
_Call = tuple[int, str, Sequence[Argument]]


def shard_of(key: str) -> int:
    """In which shard a limit is; the same in every server."""
    return crc32(key.encode()) % SHARDS


class Valkey:
    """One Valkey or Redis; close it after use."""

    def __init__(self, url: str, *, metrics: ServerMetrics, book: str = "") -> None:
        """Connect to *url* when needed; *book* tells books apart that share it."""
        self._metrics = metrics
        pool = BlockingConnectionPool.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            max_connections=_MOST_CONNECTIONS,
            timeout=_TIMEOUT_SECONDS,
            # A call whose answer is lost may have been made: whoever asked decides what then.
            retry=Retry(NoBackoff(), 0),
        )
        self._client = Redis.from_pool(pool)
        self.book = book
        self._source = read_source()
        self._digest = ""

    def shard_key(self, shard: int) -> str:
        """The key that names a shard; all its keys begin with it and lie in one hash slot."""
        return f"penstock:{self.book}:{{s{shard:02d}}}"

    async def call(
        self, shard: int, epoch: int, *calls: tuple[str, Sequence[Argument]]
    ) -> list[Reply]:
        """
        Make calls of one shard, in order and in one exchange; return their replies.

        Errors: Unavailable, after which they may have been made; BookLost, BookFenced.
        """
        return await self._call(epoch, [(shard, *call) for call in calls])

    async def call_all(self, epoch: int, operation: str, *arguments: Argument) -> list[Reply]:
        """Make the same call of every shard, in one exchange; as `call`."""
        return await self._call(epoch, [(shard, operation, arguments) for shard in range(SHARDS)])

    async def _call(self, epoch: int, calls: Sequence[_Call]) -> list[Reply]:
        try:
            with self._metrics.limit_call_seconds.time():
                replies = await self._run(epoch, calls)
        except RedisError as error:
            raise Unavailable(f"the book of limits can't be reached: {error}") from error
        if fenced := [reply[1] for reply in replies if reply[0] == b"fenced"]:
            raise BookFenced(max(fenced))
        for reply in replies:
            match reply[0]:
                case b"lost":
                    raise BookLost
                case b"replica":
                    raise Unavailable("the book of limits can't be kept in a replica")
        return replies

    async def _run(self, epoch: int, calls: Sequence[_Call]) -> list[Reply]:
        for attempt in range(2):
            if not self._digest or attempt:
                self._digest = await self._client.script_load(self._source)
            pipeline = self._client.pipeline(transaction=False)
            for shard, operation, arguments in calls:
                pipeline.evalsha(
                    self._digest, 1, self.shard_key(shard), operation, epoch, *arguments
                )
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            if not errors:
                return replies
            # A server that was started anew has no scripts; then none of the calls was made.
            if not all(isinstance(reply, NoScriptError) for reply in replies):
                break
        raise errors[0]

    async def check_fitness(self) -> None:
        """Raise UnfitValkey where a book would not be safe; Unavailable while it is away."""
        try:
            server = await self._client.info("server")
            memory = await self._client.info("memory")
        except RedisError as error:
            raise Unavailable(f"the book of limits can't be reached: {error}") from error
        version = str(server.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < _LEAST_VERSION:
            raise UnfitValkey(f"it is version {version}; at least 6.2 is needed")
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise UnfitValkey(
                f'its maxmemory-policy is "{policy}", so it may drop leases that are in use; '
                'set "maxmemory-policy noeviction"'
            )

    async def publish(self, server: str, payload: bytes) -> None:
        """Tell another server of this book something; it may be lost."""
        try:
            await self._client.publish(self._channel(server), payload)
        except RedisError as error:
            raise Unavailable(f"the book of limits can't be reached: {error}") from error

    async def listen(self, server: str) -> AsyncIterator[bytes]:
        """What other servers tell *server*, until the connection is lost: Unavailable."""
        try:
            async with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.subscribe(self._channel(server))
                while True:
                    message = await subscription.get_message(timeout=_TIMEOUT_SECONDS)
                    if message is not None:
                        yield message["data"]
        except RedisError as error:
            raise Unavailable(f"the book of limits can't be reached: {error}") from error

    async def forget_epochs(self, before: int) -> None:
        """Remove what epochs before *before* left behind; nobody reads it any more."""
        try:
            async for key in self._client.scan_iter(f"penstock:{self.book}:*", count=1000):
                epoch = key.decode(errors="replace").split(":", 4)[3]
                if epoch.isdecimal() and int(epoch) < before:
                    await self._client.unlink(key)
        except RedisError as error:
            raise Unavailable(f"the book of limits can't be reached: {error}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def _channel(self, server: str) -> str:
        return f"penstock:{self.book}:server:{server}"
