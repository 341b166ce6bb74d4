"""Decides how the services keep what they know: in Redis, in place of the tables that they have in production. Network I/O.

Every write can be done twice: a set, a hash, or a row under the event's idempotency key. In a database that is a column with a
unique constraint, written in the handler's own transaction.
"""

import redis.asyncio

JOURNAL = "huleedu:journal"
ASSESSMENTS = "huleedu:assessments"


class Store:
    def __init__(self, url: str, service: str, pod: str):
        self._redis = redis.asyncio.Redis.from_url(url, decode_responses=True, socket_timeout=5, socket_connect_timeout=5)
        self._service = service
        self._pod = pod

    async def ping(self) -> None:
        await self._redis.ping()

    async def journal(self, event) -> None:
        """Notes a delivery, whatever becomes of it."""
        entry = {
            "service": self._service,
            "pod": self._pod,
            "type": event.type,
            "key": event.key,
            "attempt": event.attempt,
            "protection": event.protection,
        }
        await self._redis.xadd(JOURNAL, entry)

    async def expect(self, batch: str, essays: int) -> None:
        """Notes how many essays a batch has."""
        await self._redis.hset(f"huleedu:batch:{batch}", "essays", essays)

    async def phase(self, batch: str, phase: str, status: str) -> None:
        """Notes how a phase of a batch ended."""
        await self._redis.hset(f"huleedu:batch:{batch}", phase, status)

    async def spellchecked(self, batch: str, essay: str, text: str):
        """Keeps a corrected text; returns all texts of the batch once they are complete, else None."""
        texts = f"huleedu:batch:{batch}:texts"
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hset(texts, essay, text)
            transaction.hlen(texts)
            transaction.hget(f"huleedu:batch:{batch}", "essays")
            _, there, expected = await transaction.execute()
        if expected is None:
            raise LookupError(f"batch {batch} is not registered yet")
        return await self._redis.hgetall(texts) if there == int(expected) else None

    async def assess(self, key: str, scores: dict) -> None:
        """Inserts the assessments of one event: for one event once, whoever does it, and how often it is tried."""
        async with self._redis.pipeline(transaction=True) as transaction:
            for essay, score in scores.items():
                transaction.hsetnx(ASSESSMENTS, f"{essay} {key}", score)
            await transaction.execute()

    async def assessed(self, batch: str, essays: list) -> bool:
        """Notes that essays are assessed; says whether all of the batch are."""
        assessed = f"huleedu:batch:{batch}:assessed"
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.sadd(assessed, *essays)
            transaction.scard(assessed)
            transaction.hget(f"huleedu:batch:{batch}", "essays")
            _, there, expected = await transaction.execute()
        return expected is not None and there == int(expected)
