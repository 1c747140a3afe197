"""The options of accepted connections."""

from __future__ import annotations

import socket

from kes_core.server.wire.sockets import listen


def test_accepted_connections_send_small_answers_at_once_and_notice_dead_clients() -> None:
    (listener,) = listen("127.0.0.1:0")
    with listener, socket.create_connection(listener.getsockname()):
        connection, _address = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
