"""Disk SPECs: what parses, to what, and one sentence for what does not."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostnvme.errors import ConfigError
from vhostnvme.limits import NO_LIMITS, Limits
from vhostnvme.storage.spec import (
    OPERATIONS,
    DiskSpec,
    ErrorFilter,
    FileSpec,
    MemorySpec,
    NullSpec,
    format_spec,
    parse_spec,
)

GIB = 1 << 30
SOME_UUID = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("file:d.img", FileSpec(path="d.img")),
        ("file:/srv/d.img?size=10G", FileSpec(path="/srv/d.img", size=10 * GIB, create=True)),
        ("file:d?size=1G&create=off", FileSpec(path="d", size=GIB)),
        ("file:d?size=1G&offset=4M", FileSpec(path="d", size=GIB, offset=4 << 20)),
        ("file:d?offset=0&size=1G", FileSpec(path="d", size=GIB, offset=0)),
        (
            "file:d?size=1G&offset=4K&create=on",
            FileSpec(path="d", size=GIB, offset=4096, create=True),
        ),
        ("file:d?direct=on", FileSpec(path="d", direct=True)),
        ("file:d?direct=auto", FileSpec(path="d")),
        ("file:a%20b%3fc", FileSpec(path="a b?c")),
        ("file:///srv/d", FileSpec(path="/srv/d")),
        ("file:%ff", FileSpec(path="\udcff")),
        ("file:d?readonly=on&block=4096", FileSpec(path="d", read_only=True, block_size=4096)),
        ("file:d?block=4K", FileSpec(path="d", block_size=4096)),
        ("file:d?preallocate=on", FileSpec(path="d", preallocate=True)),
        ("mem:1G", MemorySpec(size=GIB)),
        ("mem:?size=64m", MemorySpec(size=64 << 20)),
        ("null:1T?delay=100us", NullSpec(size=1 << 40, delay_us=100)),
        (f"mem:1G?uuid={SOME_UUID}", MemorySpec(size=GIB, uuid=uuid.UUID(SOME_UUID))),
        ("mem:1G?record=w.log", MemorySpec(size=GIB, record="w.log")),
        ("mem:1G?iops=none", MemorySpec(size=GIB)),
        (
            "mem:1G?iops=1000&read-iops=5&write-bandwidth=100M&burst=2s",
            MemorySpec(
                size=GIB,
                limits=Limits(
                    iops=1000, read_iops=5, write_bandwidth=100 << 20, burst_us=2_000_000
                ),
            ),
        ),
        (
            "mem:1G?error=0.5%&error-ops=write,read&error-errno=ENOSPC&error-after=9&error-seed=3",
            MemorySpec(
                size=GIB,
                error=ErrorFilter(
                    ppm=5000, operations=("read", "write"), errno=errno.ENOSPC, after=9, seed=3
                ),
            ),
        ),
    ],
)
def test_a_spec_parses(text: str, spec: DiskSpec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no kind in front"),
        ("d.img", "file:d.img"),
        ("fiel:d.img", "did you mean 'file'?"),
        ("file:", "path is missing"),
        ("file://server/share", "'server' is a host"),
        ("file:a%2", "two hexadecimal digits"),
        ("file:a%00b", "no byte may be zero"),
        ("file:d?size=0", "no possible size"),
        ("file:d?size=10X", "K, M, G or T"),
        ("file:d?size=-1", "K, M, G or T"),
        ("file:d?size=9223372036854775808", "2^63-1"),
        ("file:d?size=1000", "no multiple of the block, 512"),
        ("file:d?size=512&block=4096", "no multiple of the block, 4096"),
        ("file:d?create=on", "needs a size"),
        ("file:d?offset=4M", "needs a size"),
        ("file:d?size=1G&offset=512", "no multiple of 4096"),
        ("file:d?size=1G&offset=", "is no size"),
        ("file:d?size=1G&offset=9223372036854771712", "beyond 2^63-1"),
        ("mem:1G?offset=4M", "no option of mem"),
        ("file:d?direct=maybe", "none of on, off and auto"),
        ("file:d?readonly=yes", "neither on nor off"),
        ("file:d?readonly=on&preallocate=on", "read-only"),
        ("file:d?sise=1G", "did you mean 'size'?"),
        ("file:d?zzzz=1", "write one of bandwidth, block"),
        ("file:d?size", "NAME=VALUE"),
        ("file:d?size=1G&size=1G", "there twice"),
        ("file:d?block=1024", "write 512 or 4096"),
        ("file:d?record=", "path is missing"),
        ("mem:", "the size is missing"),
        ("mem:1G?size=1G", "there twice"),
        ("mem:1G?direct=on", "no option of mem"),
        ("mem:lots", "is no size"),
        ("null:1T?delay=5", "us, ms or s"),
        ("null:1T?delay=61s", "at most 60s"),
        ("null:1T?error=2", "1%, 0.5% or 100ppm"),
        ("null:1T?error=0%", "above 0"),
        ("null:1T?error=101%", "at most 100%"),
        ("null:1T?error-ops=read", "nothing without 'error'"),
        ("null:1T?error=1%&error-ops=raed", "did you mean 'read'?"),
        ("null:1T?error=1%&error-errno=EOOPS", "no errno"),
        ("null:1T?error=1%&error-after=-1", "whole number"),
        ("null:1T?iops=fast", "whole number of commands a second"),
        ("null:1T?iops=1K", "whole number of commands a second"),
        ("null:1T?iops=100000001", "100000000 a second"),
        ("null:1T?write-bandwidth=65G", "64G a second"),
        ("null:1T?read-bandwidth=1X", "K, M, G or T"),
        ("null:1T?burst=1s", "nothing without a limit"),
        ("null:1T?iops=1&burst=1", "us, ms or s"),
        ("null:1T?iops=1&burst=3601s", "3600s"),
        ("null:1T?iops=1&burst=0s", "1us"),
        ("null:1T?uuid=zebra", "no UUID"),
        ("null:1T?uuid=00000000-0000-0000-0000-000000000000", "names nothing"),
        ("nvme+tcp://10.0.0.1:4420/nqn.a/0", "begin with 1"),
        ("nvme+tcp://10.0.0.1/nqn.a/1", "lacks a port"),
        ("nvme+tcp://10.0.0.1:4420/nqn.a", "HOST:PORT/SUBNQN/NSID"),
        ("nvme+tcp://h:99999/nqn.a/1", "no port"),
    ],
)
def test_a_mistake_gets_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    message = str(caught.value)
    assert sentence in message
    assert message.startswith("disk ")
    assert "\n" not in message


def test_a_relative_path_is_seen_from_the_folder_given() -> None:
    spec = parse_spec("file:d.img")
    assert isinstance(spec, FileSpec)
    assert spec.resolved(Path("/srv")) == Path("/srv/d.img")


@given(st.text())
def test_arbitrary_text_is_a_spec_or_a_config_error(text: str) -> None:
    try:
        parse_spec(text)
    except ConfigError:
        pass


@given(
    st.sampled_from(["file:", "mem:", "null:", "nvme+tcp://"]),
    st.text(alphabet="ad0159GMK%&=?,:/.+-\x00é\ud800"),
    st.lists(
        st.tuples(
            st.sampled_from(["size", "block", "error", "error-ops", "uuid", "delay", "x"]),
            st.text(alphabet="0123456789GM%umspaed,.\n", max_size=8),
        ),
        max_size=3,
    ),
)
def test_near_misses_are_specs_or_config_errors(
    head: str, body: str, options: list[tuple[str, str]]
) -> None:
    try:
        parse_spec(head + body + "?" + "&".join(f"{name}={value}" for name, value in options))
    except ConfigError:
        pass


errors = st.builds(
    ErrorFilter,
    ppm=st.integers(1, 1_000_000),
    operations=st.sets(st.sampled_from(OPERATIONS)).map(
        lambda names: tuple(name for name in OPERATIONS if name in names)
    ),
    errno=st.sampled_from(sorted(errno.errorcode)),
    after=st.integers(0, (1 << 32) - 1),
    seed=st.integers(0, (1 << 64) - 1),
)
paths = (
    st.binary(min_size=1, max_size=40)
    .filter(lambda raw: b"\0" not in raw)
    .map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
common = {
    "block_size": st.sampled_from([512, 4096]),
    "read_only": st.booleans(),
    "uuid": st.none() | st.uuids().filter(lambda value: value.int != 0),
    "delay_us": st.integers(0, 60_000_000),
    "error": st.none() | errors,
    "record": st.none() | paths,
    "limits": st.builds(
        Limits,
        iops=st.integers(1, 100_000_000),
        write_iops=st.integers(0, 100_000_000),
        bandwidth=st.integers(0, 64 << 30),
        read_bandwidth=st.integers(0, 64 << 30),
        burst_us=st.integers(1, 3_600_000_000),
    )
    | st.just(NO_LIMITS),
}
sizes = st.integers(1, (1 << 51) - 1).map(lambda count: count * 4096)


@given(
    st.builds(MemorySpec, size=sizes, **common)
    | st.builds(NullSpec, size=sizes, **common)
    | st.builds(
        FileSpec,
        path=paths,
        size=st.none() | sizes,
        offset=st.none() | sizes.map(lambda size: size - 4096),
        direct=st.none() | st.booleans(),
        create=st.booleans(),
        preallocate=st.booleans(),
        **common,
    ).filter(
        lambda spec: (
            not ((spec.create or spec.offset is not None) and spec.size is None)
            and not (spec.read_only and spec.preallocate)
            and (spec.offset or 0) + (spec.size or 0) < 1 << 63
        )
    )
)
def test_formatted_specs_parse_to_themselves(spec: DiskSpec) -> None:
    assert parse_spec(format_spec(spec)) == spec
