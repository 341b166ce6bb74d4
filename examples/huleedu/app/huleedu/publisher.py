"""Decides when an event counts as published: once the broker has acknowledged it. Network I/O."""

import asyncio
import threading

from confluent_kafka import KafkaException, Producer


class Publisher:
    """Publishes from asyncio by librdkafka's producer, which calls back on a thread of its own."""

    def __init__(self, bootstrap_servers: str):
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": 20_000,
            }
        )
        threading.Thread(target=self._poll, daemon=True, name="producer").start()

    async def publish(self, topic: str, events: list) -> None:
        """Publishes pairs of key and value, and returns when all are acknowledged; raises for the first that is not."""
        loop = asyncio.get_running_loop()
        acknowledged = []
        for key, value in events:
            future = loop.create_future()

            def called_back(error, _message, future=future):
                loop.call_soon_threadsafe(settle, future, error)

            self._producer.produce(topic, value, key, on_delivery=called_back)
            acknowledged.append(future)
        await asyncio.gather(*acknowledged)

    def _poll(self):
        while True:
            self._producer.poll(0.1)


def settle(future: asyncio.Future, error) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(KafkaException(error))
