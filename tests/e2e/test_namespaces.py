"""The network of tests.support.namespaces: packets between two hosts are dropped, and nothing is left."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tests.support import namespaces
from tests.support.namespaces import Host, Network, network

PORT = 4000
# Answers each datagram, and notes that it came.
ECHO = """
    import socket, sys
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind((sys.argv[1], 4000))
        print("bound", flush=True)
        while True:
            data, caller = own.recvfrom(100)
            print(data.decode(), flush=True)
            own.sendto(data, caller)
"""
ASK = """
    import socket, sys
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(float(sys.argv[3]))
        own.sendto(sys.argv[2].encode(), (sys.argv[1], 4000))
        print(own.recv(100).decode())
"""


@pytest.fixture
def net() -> Iterator[Network]:
    if why := namespaces.missing():
        pytest.skip(why)
    with network() as created:
        yield created


@pytest.fixture
def echo(net: Network) -> Iterator[subprocess.Popen[str]]:
    """A host that answers."""
    host = net.host("echo")
    command = [*host.prefix, sys.executable, "-c", textwrap.dedent(ECHO), host.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "bound\n"
        yield process
        process.kill()


def ask(caller: Host, called: Host, word: str, seconds: float = 1.0) -> str:
    """What is answered; nothing if no answer comes in time."""
    script = textwrap.dedent(ASK)
    command = [*caller.prefix, sys.executable, "-c", script, called.address, word, str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_each_direction_is_cut_by_itself(net: Network, echo: subprocess.Popen[str]) -> None:
    assert echo.stdout is not None
    caller, called = net.host("caller"), net.host("echo")
    assert ask(caller, called, "first", 10.0) == "first"
    net.cut(caller, called)
    assert ask(caller, called, "lost") == ""
    net.mend(caller, called)
    net.cut(called, caller)
    assert ask(caller, called, "unanswered") == ""
    net.mend(called, caller)
    assert ask(caller, called, "last", 10.0) == "last"
    came = [echo.stdout.readline().strip() for _ in range(3)]
    assert came == ["first", "unanswered", "last"]


def test_host_without_its_cable_reaches_nobody_until_it_has_it_again(
    net: Network, echo: subprocess.Popen[str]
) -> None:
    caller, other, called = net.host("caller"), net.host("other"), net.host("echo")
    caller.cut_off()
    assert ask(caller, called, "lost") == ""
    assert ask(other, called, "first", 10.0) == "first"
    caller.join()
    assert ask(caller, called, "last", 10.0) == "last"


def test_nothing_leads_out_of_a_network(net: Network) -> None:
    routes = ["ip", "-4", "route", "show"]
    shown = subprocess.run([*net.host("caller").prefix, *routes], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [str(net.subnet)]


def test_nothing_is_left_after_a_failure(net: Network) -> None:
    bridges = []

    def fail() -> None:
        with network() as failing:
            failing.host("one")
            failing.host("two")
            bridges.append(failing.bridge)
            assert failing.bridge in left()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert bridges[0] not in left()
    assert net.bridge in left()


def left() -> str:
    """All namespaces and interfaces of this machine."""
    commands = (["ip", "netns", "list"], ["ip", "-brief", "link"])
    return "".join(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands
    )
