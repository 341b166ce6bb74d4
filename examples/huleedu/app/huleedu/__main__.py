"""Decides which of the services runs, and with what: all is said by the environment. Network I/O."""

import asyncio
import logging
import os
import signal
import socket

from aiohttp import web

from . import services
from .endpoint import endpoint, health
from .publisher import Publisher
from .store import Store


async def main() -> None:
    name = os.environ["SERVICE"]
    pod = os.environ.get("POD_NAME", socket.gethostname())
    store = Store(os.environ.get("REDIS_URL", "redis://localhost:6379"), name, pod)
    service = services.ALL[name](store, Publisher(os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")))
    work = float(os.environ.get("WORK_MS", "0")) / 1000

    runners = []
    for app, site in (
        (health(name, store), lambda r: web.TCPSite(r, "0.0.0.0", int(os.environ.get("HEALTH_PORT", "8080")))),
        # Last: the sidecar joins its group when somebody listens here.
        (endpoint(service.handle, store.journal, work), lambda r: web.UnixSite(r, os.environ["IDEMPOTENCY_SOCKET"])),
    ):
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await site(runner).start()
        runners.append(runner)
    logging.info("%s listens", name)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    # Requests under way are finished first.
    for runner in reversed(runners):
        await runner.cleanup()


logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
asyncio.run(main())
