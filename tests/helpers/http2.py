"""An HTTP/2 client for requests that no library would send."""

from __future__ import annotations

import ssl
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events


class Http2Client:
    """A client that can run many requests at a time on one connection."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        assert connection.selected_alpn_protocol() == "h2"
        self.socket = connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(2**24)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def request(self, method: str, path: str, *, end: bool = True, extra: Any = ()) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        headers = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *extra]
        self.h2.send_headers(stream_id, headers, end_stream=end)
        return stream_id

    def events(self) -> list[h2.events.Event]:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server has closed the connection")
        events = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return events

    def run(self, method: str, path: str, *, count: int, at_once: int) -> int:
        """Make `count` requests, `at_once` at a time; return the number of answers with status 200."""
        started = answered = good = 0
        while answered < count:
            while started < count and started - answered < at_once:
                self.request(method, path)
                started += 1
            self.flush()
            for event in self.events():
                if isinstance(event, h2.events.ResponseReceived):
                    good += dict(event.headers)[b":status"] == b"200"
                elif isinstance(event, h2.events.StreamEnded):
                    answered += 1
                elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    raise AssertionError(f"after {answered} answers: {event!r}")
        return good
