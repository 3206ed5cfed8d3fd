"""What `vhostnvme perf` makes of its arguments; and what it answers to those that make no sense."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import pytest

from vhostnvme.cli.perf import add_arguments
from vhostnvme.errors import ConfigError, VhostNvmeError
from vhostnvme.perf.load import find_socket, find_sockets, make_options


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_defaults() -> None:
    options = make_options(parse("x"))
    assert options["time_ms"] == 10_000 and options["nr_ios"] == 0
    assert (options["depth"], options["nr_queues"], options["block_bytes"]) == (32, 1, 4096)
    assert not any(options[flag] for flag in ("verify", "fill", "irq", "ceiling_thread"))


def test_every_argument_arrives() -> None:
    words = "--rw randrw --rwmixread 70 --bs 128K --qd 4 --queues 2 --warmup 0.5 --rate 1000"
    words += " --io-limit 77 --size 1G --fill --regions 2M --memory 256M --seed 9"
    options = make_options(parse("a", "b", *words.split()))
    assert options["read_percent"] == 70 and options["block_bytes"] == 131072
    assert options["time_ms"] == 0 and options["nr_ios"] == 77 and options["ramp_ms"] == 500
    assert options["rate_iops"] == 1000 and options["range_bytes"] == 1 << 30
    assert options["fill"] == 1 and options["region_bytes"] == 2 << 20
    assert options["memory_bytes"] == 256 << 20 and options["seed"] == 9


def test_the_older_names_still_work() -> None:
    options = make_options(parse("x", "--mix", "10", "--ios", "5", "--ramp", "1"))
    assert (options["read_percent"], options["nr_ios"], options["ramp_ms"]) == (10, 5, 1000)


def test_ceilings() -> None:
    assert make_options(parse("--ceiling"))["ceiling_thread"] == 1
    inline = make_options(parse("--ceiling", "inline", "--qd", "1"))
    assert inline["ceiling_inline"] == 1 and inline["ceiling_thread"] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "give a TARGET"),
        ("x --ceiling", "leave TARGET out"),
        ("--ceiling inline --verify", "--verify needs a server"),
        ("--ceiling inline --irq", "--irq needs a server"),
        ("x --qd 0", "--qd must be from 1 to 4096, not 0"),
        ("x --queues 129", "--queues must be"),
        ("x --rwmixread 101", "--rwmixread must be from 0 to 100"),
        ("x --rate -1", "--rate must be"),
        ("x --time nan", "--time must be"),
        ("x --warmup -1", "--warmup must be"),
        ("x --io-limit 0", "--io-limit must be"),
        ("x --bs 1000", "--bs must be a multiple of 512"),
        ("x --bs 32M", "--bs must be a multiple of 512 up to 16M"),
        ("x --size 1G --blocks 7", "leave one out"),
        ("x --regions 2000", "--regions must be a multiple of 4K"),
        ("x --memory 1T", "--memory must be"),
        ("x --cpu 100000", "--cpu 100000 is no CPU"),
        ("x y z --queues 400", "--queues must be|400 queues"),
        (" ".join(["x"] * 9) + " --queues 128", "at most 1024 together"),
        (" ".join(["x"] * 257), "257 targets are too many"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        make_options(parse(*words.split()))
    assert "\n" not in str(caught.value)


def test_targets(tmp_path: Path) -> None:
    with pytest.raises(VhostNvmeError, match=r"no socket at .*cntrl"):
        find_socket(str(tmp_path))
    path = tmp_path / "cntrl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert find_socket(str(tmp_path)) == find_socket(str(path)) == path
    with pytest.raises(ConfigError, match="given twice"):
        find_sockets([str(tmp_path), str(path)])
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no socket"):
        find_socket(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="no vfio-user socket"):
        find_socket("nvme+tcp://host:4420/nqn")
