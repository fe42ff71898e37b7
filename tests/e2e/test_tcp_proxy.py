"""The modes of the kill tests' proxy affect connections as described."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.tcp_proxy import BlackHole, Cut, Delay, Pass, Reset, Slice, TcpProxy

WORDS = b"something that is longer than one segment"


@pytest.fixture
def echo() -> Iterator[str]:
    """An echo server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(1024):
                        connection.sendall(data)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def proxy(echo: str) -> Iterator[TcpProxy]:
    with TcpProxy(echo) as running:
        yield running


def connect(proxy: TcpProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def said_back(connection: socket.socket) -> bytes:
    """Sends bytes, and reads until all have come back or no more arrive."""
    connection.sendall(WORDS)
    heard = b""
    while len(heard) < len(WORDS):
        heard += connection.recv(1024)
    return heard


@pytest.mark.parametrize("mode", [Pass(), Delay(0.01), Slice(3)])
def test_these_modes_lose_nothing(proxy: TcpProxy, mode: Pass | Delay | Slice) -> None:
    proxy.switch(mode)
    with connect(proxy) as connection:
        assert said_back(connection) == WORDS
        proxy.switch(Pass())
        assert said_back(connection) == WORDS


def test_slices_are_small(proxy: TcpProxy) -> None:
    proxy.switch(Slice(3, pause_seconds=0.02))
    with connect(proxy) as connection:
        connection.sendall(WORDS)
        assert len(connection.recv(1024)) <= 3


def test_black_hole_accepts_connections_and_answers_nothing(proxy: TcpProxy) -> None:
    with connect(proxy) as old:
        assert said_back(old) == WORDS
        proxy.switch(BlackHole())
        with connect(proxy) as new:
            for connection in (old, new):
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    said_back(connection)
            proxy.switch(Pass())
            for connection in (old, new):
                connection.settimeout(10)
                with pytest.raises(ConnectionResetError):
                    connection.recv(1024)
    with connect(proxy) as after:
        assert said_back(after) == WORDS


def test_black_hole_for_answers_only_forwards_requests() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        TcpProxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy,
        connect(proxy) as client,
    ):
        asked, _ = listener.accept()
        with asked:
            asked.settimeout(10)
            proxy.switch(BlackHole(answers_only=True))
            client.sendall(WORDS)
            assert asked.recv(1024) == WORDS
            asked.sendall(b"lost")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1024)


def test_reset_ends_old_and_new_connections(proxy: TcpProxy) -> None:
    with connect(proxy) as old:
        assert said_back(old) == WORDS
        proxy.switch(Reset())
        with pytest.raises(ConnectionResetError):
            old.recv(1024)
    with pytest.raises(ConnectionResetError), connect(proxy) as new:
        said_back(new)


def test_end_of_a_client_reaches_the_target(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        assert said_back(connection) == WORDS
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1024) == b""


def test_unreachable_target_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed_port = f"127.0.0.1:{listener.getsockname()[1]}"
    with TcpProxy(closed_port) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1024)


def test_end_of_the_proxy_ends_its_connections(echo: str) -> None:
    with TcpProxy(echo) as proxy:
        connection = connect(proxy)
        assert said_back(connection) == WORDS
    with connection, pytest.raises(ConnectionResetError):
        connection.recv(1024)


@pytest.mark.parametrize("is_silent", [False, True])
def test_cut_loses_the_answer_with_the_bytes_and_all_after_it(proxy: TcpProxy, is_silent: bool) -> None:
    with connect(proxy) as connection:
        proxy.switch(Cut(b"longer than", is_silent))
        connection.sendall(b"short")
        assert connection.recv(1024) == b"short"
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError if is_silent else ConnectionResetError):
            said_back(connection)
