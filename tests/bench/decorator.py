"""The one-phase gate of the Python services, as a consumer of its own: the baseline of `make bench`.

It behaves as their decorator and their consumer loop do: one event after another; the key is
`huleedu:events:seen:` and the SHA-256 of the canonical JSON of `data`; `SET key 1 EX 86400 NX`; a refused SET is a
duplicate; a handler that raises frees the key; the offset of each message is committed before the next one is read.
The handler is one HTTP request to the app behind the socket, as a service on our sidecar would get it.
"""

import argparse
import asyncio
import functools
import hashlib
import json
import signal

import aiohttp
import redis.asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition

TTL = 86_400
PREFIX = "huleedu:events:seen:"


def event_id(value: bytes) -> str:
    data = json.loads(value)["data"]
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def idempotent(client):
    """True or False from the handler, None for a duplicate; an error frees the key."""

    def decorate(handler):
        @functools.wraps(handler)
        async def wrapper(message):
            key = PREFIX + event_id(message.value)
            if not await client.set(key, "1", ex=TTL, nx=True):
                return None
            try:
                return await handler(message)
            except Exception:
                await client.delete(key)
                raise

        return wrapper

    return decorate


async def consume(args):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    counts = {"delivered": 0, "duplicates": 0, "failed": 0}
    client = redis.asyncio.Redis.from_url(args.redis)
    connector = aiohttp.UnixConnector(path=args.socket)
    consumer = AIOKafkaConsumer(
        args.topic,
        bootstrap_servers=args.kafka,
        group_id=args.group,
        auto_offset_reset="earliest",
        enable_auto_commit=args.auto_commit,
        auto_commit_interval_ms=1000,
    )
    async with aiohttp.ClientSession(connector=connector) as session:

        @idempotent(client)
        async def handle(message):
            headers = {"content-type": "application/json"}
            async with session.post("http://app/", data=message.value, headers=headers) as answer:
                await answer.read()
                if answer.status >= 500:
                    raise RuntimeError(f"the app answers {answer.status}")
                return answer.status < 300

        await consumer.start()
        async for message in consumer:
            result = await handle(message)
            counts["duplicates" if result is None else "delivered" if result else "failed"] += 1
            if not args.auto_commit and result is not False:
                place = TopicPartition(message.topic, message.partition)
                await consumer.commit({place: message.offset + 1})
            if stop.is_set():
                break
        await consumer.stop()
    await client.aclose()
    print(json.dumps(counts), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("kafka", "topic", "group", "redis", "socket"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--auto-commit", action="store_true", help="commit once a second, not each message")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop, not on asyncio's own loop")
    args = parser.parse_args()
    if args.uvloop:
        import uvloop

        uvloop.run(consume(args))
    else:
        asyncio.run(consume(args))


if __name__ == "__main__":
    main()
