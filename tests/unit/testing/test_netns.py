"""The cable between two network namespaces: what passes, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vhostnvme.testing.netns import Cable, End

# Sends back what it gets, as datagrams: nothing is repeated that was lost.
ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 7))
print(flush=True)
while True:
    data, sender = s.recvfrom(100)
    print(data.decode(), flush=True)
    s.sendto(data, sender)
"""
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
s.sendto(sys.argv[2].encode(), (sys.argv[1], 7))
try:
    print(s.recv(100).decode())
except TimeoutError:
    print("lost")
"""


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    with Cable() as made:
        yield made


@pytest.fixture
def echo(cable: Cable) -> Iterator[subprocess.Popen[str]]:
    command = [*cable.right.prefix, sys.executable, "-c", ECHO]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def ask(end: End, address: str, word: str, timeout: float = 5) -> str:
    return end.run(sys.executable, "-c", ASK, address, word, str(timeout)).strip()


def heard(echo: subprocess.Popen[str]) -> str:
    assert echo.stdout is not None
    return echo.stdout.readline().strip()


@pytest.mark.parametrize("family", ["4", "6"])
def test_what_passes_and_what_is_lost(
    cable: Cable, echo: subprocess.Popen[str], family: str
) -> None:
    end = cable.right
    address = f"::ffff:{end.address}" if family == "4" else end.address6
    assert ask(cable.left, address, "whole") == "whole" == heard(echo)
    cable.drop("left")
    assert ask(cable.left, address, "there", 0.2) == "lost"
    cable.heal()
    cable.drop("right")
    assert ask(cable.left, address, "back", 0.2) == "lost"
    assert heard(echo) == "back"  # and it has never heard the word before
    cable.cut()
    assert ask(cable.left, address, "both", 0.2) == "lost"
    cable.heal()
    assert ask(cable.left, address, "healed") == "healed" == heard(echo)


def test_a_pulled_cable_is_noticed_and_works_again(
    cable: Cable, echo: subprocess.Popen[str]
) -> None:
    cable.down()
    assert "state DOWN" in cable.left.run("ip", "link", "show", "cable")
    cable.up()
    assert ask(cable.left, cable.right.address6, "again") == "again" == heard(echo)


def test_nothing_is_left_behind() -> None:
    with Cable() as made:
        pids = [holder.pid for holder in made._holders]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
