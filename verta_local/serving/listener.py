"""The HTTP side: waitress, with the few things changed that serving models needs.

- As many threads as requests that wait, up to a bound, and the thread that was busy last is used first. A fixed pool
  would let one slow model keep everyone else, the health route too, waiting.
- An answer is one TCP segment: waitress sends headers and body in two writes.
- The thread that answered stays with its connection for a moment: the next request of a busy keep-alive client
  goes without the detour through the main loop (27-30 % less CPU a request at 1 and at 8 clients).
- Errors that waitress finds by itself (too large, malformed, too slow) have the same JSON form as all others.
- A refused upload is read away for a moment before the connection closes: else the client sees a reset, not the 413.
- Draining: no new connections, but what is in flight is answered.
"""

from __future__ import annotations

import functools
import logging
import queue
import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import BadRequest, Error, InternalServerError, build_http_date
from waitress.wasyncore import loop as poll_once

from verta_local.serving.addresses import check_address
from verta_local.serving.guard import SECURITY_HEADERS

_MAX_CONNECTIONS = 512
_MAX_THREADS = 512
_THREAD_IDLE_S = 20.0
_HEADER_LIMIT_BYTES = 64 * 1024
_HEAD_TIMEOUT_S = 20.0  # to send the whole head of a request
_BODY_TIMEOUT_S = 300.0  # to send the whole request: 64 MiB at 220 kB/s
_IDLE_CONNECTION_S = 120
_LINGER_S = 3.0
_JOIN_BELOW_BYTES = 256 * 1024
_LOOP_S = 1.0
_HOLD_MS = 20
_TRANSFER_ENCODING = re.compile(rb"^transfer-encoding:.*$", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"\bchunked\b", re.IGNORECASE)
_HAS_POLL = hasattr(select, "poll")


class _RequestTimeout(Error):  # type: ignore[misc]
    code = 408
    reason = "Request Timeout"


class _ElasticThreads:
    """waitress's dispatcher interface, with threads made when needed and gone when idle."""

    def __init__(self, limit: int = _MAX_THREADS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[Any]] = []  # the last one was busy last: its caches are warm
        self._queue: deque[Any] = deque()
        self.count = 0

    def add_task(self, task: Any) -> None:
        with self._lock:
            if self._idle:
                self._idle.pop().put(task)
                return
            if self.count >= self._limit:
                self._queue.append(task)
                return
            self.count += 1
        threading.Thread(target=self._run, args=(task,), name="request", daemon=True).start()

    def set_thread_count(self, count: int) -> None:
        """Called by waitress; the count follows the load here."""

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """Called by waitress; the threads are daemons and hold nothing."""
        return True

    def _run(self, task: Any) -> None:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        while True:
            try:
                task.service()
            except Exception:
                logging.getLogger("waitress").exception("an answer could not be written")
            with self._lock:
                if self._queue:
                    task = self._queue.popleft()
                    continue
                self._idle.append(inbox)
            try:
                task = inbox.get(timeout=_THREAD_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        self.count -= 1
                        return
                task = inbox.get()  # it came in that very moment


class _Task(WSGITask):  # type: ignore[misc]
    """Joins the headers and the first piece of the body into one write."""

    wrote_header: bool

    def build_response_header(self) -> bytes:
        # The usual answer needs none of what waitress does here for others: sorting, spelling, a date from scratch.
        if (
            self.version != "1.1"
            or self.close_on_finish
            or self.request.headers.get("CONNECTION", "keep-alive")
            not in (
                "keep-alive",
                "Keep-Alive",
            )
        ):
            return bytes(super().build_response_header())
        if not any(name == "Content-Length" for name, _ in self.response_headers):
            return bytes(super().build_response_header())
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.response_headers)
        return f"HTTP/1.1 {self.status}\r\n{lines}Date: {_http_date(int(self.start_time))}\r\n\r\n".encode("latin-1")

    def write(self, data: bytes) -> None:
        if self.wrote_header or not data or not self.has_body or len(data) > _JOIN_BELOW_BYTES:
            super().write(data)
            return
        if self.request.command == "HEAD" or not self.complete or self.content_length != len(data):
            super().write(data)
            return
        if self.channel.server.is_draining:
            self.set_close_on_finish()
        header = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written += len(data)
        self.channel.write_soon(header + data)


@functools.lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return str(build_http_date(second))


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """An error that waitress found itself, in our form."""

    def execute(self) -> None:
        error = self.request.error
        self.status = f"{error.code} {error.reason}"
        text = _reason(error, self.channel.server.body_limit_bytes)
        body = b'{"message": "%s"}' % text.encode("ascii", "replace")
        self.response_headers.extend([("Content-Type", "application/json"), *SECURITY_HEADERS])
        self.set_close_on_finish()
        self.content_length = len(body)
        self.wrote_header = True
        header = self.build_response_header()
        self.channel.has_unread_body = True
        self.channel.write_soon(header + body)


def _reason(error: Any, body_limit_bytes: int) -> str:
    if error.code == 413:
        return f"the body is larger than the limit of {body_limit_bytes} bytes"
    if error.code == 431:
        return f"the headers are larger than the limit of {_HEADER_LIMIT_BYTES} bytes"
    if error.code == 408:
        return "the request took too long to arrive"
    # What waitress says may quote the request: only what is plain text in JSON goes back.
    said = "".join(letter for letter in str(error.body) if letter.isalnum() or letter in " .,:-")
    return f"{error.reason}: {said[:200]}"


def _is_readable_within(connection: socket.socket, timeout_ms: int) -> bool:
    if _HAS_POLL:
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        return bool(poller.poll(timeout_ms))
    return bool(select.select([connection], [], [], timeout_ms / 1000)[0])


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Knows when it began, and does not invite a body that it has refused already (Expect: 100-continue)."""

    def __init__(self, adjustments: Any) -> None:
        super().__init__(adjustments)
        self.began_at = time.monotonic()

    def parse_header(self, header_plus: bytes) -> None:
        """As waitress; and the body may be chunked once (RFC 9112, 6.1). Raises: ParsingError."""
        if sum(len(_CHUNKED.findall(line)) for line in _TRANSFER_ENCODING.findall(header_plus)) > 1:
            raise ParsingError("Transfer-Encoding names chunked more than once")
        super().parse_header(header_plus)

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.error is not None:
            self.expect_continue = False
        return consumed


class _Channel(HTTPChannel):  # type: ignore[misc]
    task_class = _Task
    error_task_class = _ErrorTask
    parser_class = _Parser
    close_when_flushed: bool
    current_outbuf_count: int
    request: Any
    requests: list[Any]
    has_unread_body = False
    is_held = False  # a request thread reads from the connection: the main loop must not
    linger_until = 0.0

    def handle_write(self) -> None:
        if self.has_unread_body and self.close_when_flushed and not self.linger_until:
            if self.total_outbufs_len:
                self._flush_exception(self._flush_some)
            if not self.total_outbufs_len and self.connected:
                self.close_when_flushed = False
                self.linger_until = time.monotonic() + _LINGER_S
                try:
                    self.socket.shutdown(socket.SHUT_WR)
                except OSError:
                    self.will_close = True
                return
        super().handle_write()

    def readable(self) -> bool:
        if self.is_held:
            return False
        return bool(self.linger_until) or bool(super().readable())

    def service(self) -> None:
        """Answers the requests that are here, and those that follow at once; runs in a request thread."""
        self.is_held = True
        try:
            while True:
                self._answer_first()
                if not self.requests and not self._receive_next():
                    return
        finally:
            self.last_activity = time.time()
            self.is_held = False
            if self.connected:
                self.server.pull_trigger()

    def _answer_first(self) -> None:
        request = self.requests[0]
        task = (self.error_task_class if request.error else self.task_class)(self, request)
        try:
            if self.connected:
                task.service()
            else:
                task.close_on_finish = True
        except ClientDisconnected:
            task.close_on_finish = True
        except Exception:
            self.logger.exception("a request failed in the server")
            if not task.wrote_header:
                request.error = InternalServerError("its log says more")
                task = self.error_task_class(self, request)
                task.service()
            task.close_on_finish = True
        if task.close_on_finish:
            with self.requests_lock:
                self.close_when_flushed = True
                for each in self.requests:
                    each.close()
                self.requests = []
            return
        if self.current_outbuf_count > 0:
            self.current_outbuf_count = self.adj.outbuf_high_watermark  # as waitress: a new buffer a request
        request.close()
        with self.requests_lock:
            self.requests.pop(0)
            waits = self.request
            if waits is not None and waits.expect_continue and waits.headers_finished and not self.sent_continue:
                self.send_continue()

    def _receive_next(self) -> bool:
        """Reads on for a moment; whether there is another request now. What came in part is left to the main loop."""
        if self.total_outbufs_len or self.server.is_draining:
            return False
        while self.connected and not self.close_when_flushed and not self.will_close:
            try:
                if not _is_readable_within(self.socket, _HOLD_MS):
                    return False
                with self.outbuf_lock:  # the main loop clears `connected` under it before it closes the socket
                    if not self.connected:
                        return False
                    data = self.socket.recv(self.adj.recv_bytes)
            except (OSError, ValueError):
                return False  # closed, by the client or by the main loop: that one cleans up
            if not data:
                return False
            self.received(data)
            if self.requests:
                return True
        return False

    def handle_read(self) -> None:
        if not self.linger_until:
            if not self._is_cut_short():
                super().handle_read()
            return
        try:
            self.recv(_JOIN_BELOW_BYTES)  # thrown away; closes the channel when the client is done
        except OSError:
            self.handle_close()

    def _is_cut_short(self) -> bool:
        """Whether the client sends nothing more in the middle of a request, which is answered then: it may read on."""
        with self.requests_lock:
            request = self.request
            if request is None or request.completed or not request.headers_finished:
                return False
            try:
                if self.socket.recv(1, socket.MSG_PEEK):
                    return False
            except OSError:
                return False  # as the read itself will say
            self._refuse(request, BadRequest("the request ended before its body was whole"))
        return True

    def refuse_if_slow(self, now: float) -> None:
        """Called now and then by the loop: ends what trickles in."""
        if self.linger_until and now > self.linger_until:
            self.will_close = True
            return
        with self.requests_lock:
            request = self.request
            if request is None or request.completed:
                return
            limit_s = _BODY_TIMEOUT_S if request.headers_finished else _HEAD_TIMEOUT_S
            if now - request.began_at <= limit_s:
                return
            if not request.headers_finished:
                request.parse_header(b"GET / HTTP/1.0\r\n")  # gives the error answer its version and path
            self._refuse(request, _RequestTimeout(""))

    def _refuse(self, request: Any, error: Any) -> None:
        """Has a request that is not whole answered by an error. With the requests' lock held."""
        request.error = error
        request.completed = True
        self.request = None
        self.requests.append(request)
        if len(self.requests) == 1:
            self.server.add_task(self)


class HttpServer(TcpWSGIServer):  # type: ignore[misc]
    """Listens on `host` and `port` (0: any free one) and answers with a WSGI application until told to stop.

    Raises: ValueError for what is no host or port; OSError when the address cannot be bound.
    """

    channel_class = _Channel
    is_draining = False

    def __init__(
        self, application: Callable[..., Iterable[bytes]], host: str, port: int, body_limit_bytes: int
    ) -> None:
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        check_address(host, port)
        self.body_limit_bytes = body_limit_bytes
        adjustments = Adjustments(
            listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            threads=1,
            connection_limit=_MAX_CONNECTIONS,
            max_request_header_size=_HEADER_LIMIT_BYTES,
            max_request_body_size=body_limit_bytes + 1,
            recv_bytes=64 * 1024,
            inbuf_overflow=4 * 1024 * 1024,
            outbuf_overflow=32 * 1024 * 1024,
            channel_timeout=_IDLE_CONNECTION_S,
            cleanup_interval=1,
            log_socket_errors=False,
            expose_tracebacks=False,
            ident=None,
            asyncore_use_poll=True,  # select() ends at descriptor 1024
        )
        self._sockets: dict[int, Any] = {}
        # Re-entrant: a signal handler wakes the loop too. A late thread must not write to a descriptor that is
        # closed, and perhaps given to something else, by then.
        self._wake_lock = threading.RLock()
        self._is_closed = False
        try:
            super().__init__(
                application,
                self._sockets,
                dispatcher=_ElasticThreads(),
                adj=adjustments,
                sockinfo=adjustments.listen[0],
            )
        except OSError:
            for opened in list(self._sockets.values()):
                opened.close()
            raise
        self.port = int(self.effective_port)

    def add_task(self, task: Any) -> None:
        """Called by a channel with a new request; the thread that holds the channel sees it by itself."""
        if not task.is_held:
            super().add_task(task)

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        monotonic_now = time.monotonic()
        for channel in list(self.active_channels.values()):
            channel.refuse_if_slow(monotonic_now)

    def serve_until(self, is_stopping: Callable[[], bool]) -> None:
        """Runs the loop until `is_stopping()`; call `wake()` after the answer changed."""
        while not is_stopping():
            poll_once(timeout=_LOOP_S, use_poll=True, map=self._sockets, count=1)

    def wake(self) -> None:
        """Makes the loop look up; safe from signal handlers and any thread, and after the end."""
        self.pull_trigger()

    def pull_trigger(self) -> None:
        """waitress's name for `wake`."""
        with self._wake_lock:
            if not self._is_closed:
                super().pull_trigger()

    def drain(self, limit_s: float, is_hurried: Callable[[], bool]) -> None:
        """Takes no new connection, answers what is in flight, for at most `limit_s`; then closes everything."""
        self.is_draining = True
        self.accepting = False
        self.del_channel()
        self.socket.close()
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and not is_hurried():
            busy = False
            for channel in list(self.active_channels.values()):
                if channel.requests or channel.total_outbufs_len or channel.request is not None:
                    busy = True
                elif not channel.linger_until:
                    channel.will_close = True
            if not busy:
                break
            poll_once(timeout=0.05, use_poll=True, map=self._sockets, count=1)
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        with self._wake_lock:
            self._is_closed = True
            self.trigger.close()
