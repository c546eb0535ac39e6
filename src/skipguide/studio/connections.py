"""Connections of strangers: bounded in number, and closed where a client is too slow.

uvicorn waits without end for the head of a request, and for a client that does not read.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from skipguide.studio.limits import address_key

HEAD_SECONDS = 15.0  # until the head of a request is there
READ_SECONDS = 60.0  # in which a client must read something
HANDSHAKE_SECONDS, SHUTDOWN_SECONDS = 10.0, 2.0  # of TLS
MOST_CONNECTIONS, MOST_OF_ADDRESS = 512, 128  # a classroom behind one address opens six each
MOST_HEAD_BYTES = 16 << 10


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, with an end to waiting."""

    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Close the connection at once where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS or self._of_address() > MOST_OF_ADDRESS:
            transport.abort()
            return
        self._wait_for_head()

    def _of_address(self) -> int:
        own = address_key(self.client[0]) if self.client else ""
        every = [each for each in self.connections if isinstance(each, H11Protocol)]
        return sum(bool(each.client) and address_key(each.client[0]) == own for each in every)

    def data_received(self, data: bytes) -> None:
        """Bound the time for the head of each request, however little comes at a time."""
        if self._is_idle and self._waiting is None:
            self._wait_for_head()
        super().data_received(data)
        if not self._is_idle:
            self._stop_waiting()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._end_waiting)

    def _end_waiting(self) -> None:
        self._waiting = None
        if self._is_idle:
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._stop_unread()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was waited for."""
        self._stop_waiting()
        self._stop_unread()
        super().connection_lost(exc)


class SharedServer:
    """The server for raters, in a thread of its own beside that of the studio.

    Args:
        app: from `app.create_rater_app`.
        listener: a socket that listens already.
        files: of the certificate and its key; None for no TLS.
    """

    def __init__(self, app: Any, listener: socket.socket, files: tuple[str, str] | None) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            proxy_headers=False,  # whoever connects is who they are
            log_level="error",
            server_header=False,
            h11_max_incomplete_event_size=MOST_HEAD_BYTES,
            timeout_graceful_shutdown=5,
            ssl_certfile=files[0] if files else None,
            ssl_keyfile=files[1] if files else None,
        )
        self._server, self._listener, self._is_secure = (
            uvicorn.Server(config),
            listener,
            bool(files),
        )
        self._thread = threading.Thread(target=self._run, name="raters", daemon=True)

    def __enter__(self) -> SharedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:  # ends what is left
            runner.run(self._serve())

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        if self._is_secure:
            # A client that goes silent there would hold a connection for a minute, or half of one.
            bounded: Any = functools.partial(
                loop.create_server,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
            loop.create_server = bounded
        return loop

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._listener])
        for left in list(self._server.server_state.connections):
            left.transport.abort()
        # Those that are still shaking hands have no protocol yet.
        begun = asyncio.all_tasks() - {asyncio.current_task()}
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        await asyncio.sleep(0.05)  # until their sockets are closed
