"""Decides what the sidecar is told of an event's handling: all that stands in place of the decorator."""

import asyncio
import logging

from aiohttp import web

from .events import Event

log = logging.getLogger(__name__)


def endpoint(handle, journal, work: float) -> web.Application:
    """The app behind the socket.

    `handle` is a handler as the decorator wrapped it: True is done, False a business failure, which no retry would mend, and
    an exception a failure of the infrastructure. `journal` is told of every delivery before it is handled; `work` are the
    seconds that the service's models take.
    """

    async def answer(request: web.Request) -> web.Response:
        try:
            event = Event.read(request.headers, await request.read())
            await journal(event)
            await asyncio.sleep(work)
            done = await handle(event)
        except Exception:
            log.exception("failed: it comes again")
            return web.Response(status=500)
        return web.Response(status=204 if done else 422)

    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_post("/", answer)
    return app


def health(name: str, store) -> web.Application:
    """What Kubernetes asks, on a port of its own: the socket is for the sidecar alone."""

    async def answer(_request: web.Request) -> web.Response:
        try:
            await store.ping()
        except Exception as error:
            return web.json_response({"service": name, "status": "unhealthy", "reason": str(error)}, status=503)
        return web.json_response({"service": name, "status": "healthy"})

    app = web.Application()
    app.router.add_get("/healthz", answer)
    return app
