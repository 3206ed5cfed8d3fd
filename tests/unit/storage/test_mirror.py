"""SPECs of mirrors: what they say, how they are written, and what is refused."""

from __future__ import annotations

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.storage.spec import FileSpec, MirrorSpec, RemoteSpec, format_spec, parse_spec

TWO = "mirror:?leg=file:a&leg=file:b"


def test_the_legs_are_specs_of_their_own() -> None:
    spec = parse_spec(
        "mirror:?leg=file:/srv/a%2525?size=1G%26direct=on&leg=nvme%2Btcp://10.0.0.2:4420/nqn.x/3"
        "&bitmap=/var/lib/m&prefer=1&region=4M&rate=50M&leg-timeout=1s&same=on"
    )
    assert isinstance(spec, MirrorSpec)
    local, remote = spec.legs
    assert isinstance(local, FileSpec) and isinstance(remote, RemoteSpec)
    assert (local.path, local.size, local.direct) == ("/srv/a%", 1 << 30, True)
    assert (remote.subnqn, remote.nsid) == ("nqn.x", 3)
    assert (spec.bitmap, spec.preferred, spec.region) == ("/var/lib/m", 1, 4 << 20)
    assert (spec.rate, spec.leg_timeout_ms, spec.same) == (50 << 20, 1000, True)


@pytest.mark.parametrize(
    "text",
    [
        f"{TWO}&bitmap=m",
        f"{TWO}&leg=mem:1G&bitmap=m&prefer=2&leg-timeout=500ms&uuid=00000000-0000-0000-0000-000000000001",
        "mirror:?leg=file:a?size=1G%26block=4096&leg=file:b?block=4096&bitmap=m%26n&size=512M",
    ],
)
def test_what_is_written_parses_to_the_same(text: str) -> None:
    spec = parse_spec(text)
    assert parse_spec(format_spec(spec)) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mirror:file:a?leg=file:b&bitmap=m", "nothing before the"),
        ("mirror:?bitmap=m", "1 to 3 legs, not 0"),
        (f"{TWO}&leg=file:c&leg=file:d&bitmap=m", "1 to 3 legs, not 4"),
        (TWO, "'bitmap' is missing"),
        (f"{TWO}&bitmap=", "the path is missing"),
        (f"{TWO}&bitmap=m&prefer=2", "no leg 2"),
        ("mirror:?leg=file:a&leg=file:a&bitmap=m", "the same disk"),
        ("mirror:?leg=file:a&leg=file:b?block=4096&bitmap=m", "same block size"),
        (f"{TWO}&bitmap=m&block=4096", "same block size"),
        ("mirror:?leg=file:a?iops=5&leg=file:b&bitmap=m", "the mirror's, not a leg's"),
        ("mirror:?leg=mirror:?leg=file:a%26bitmap=m&bitmap=m", "leg of another"),
        ("mirror:?leg=fil:a&bitmap=m", "option 'leg': 'fil' is no kind"),
        (f"{TWO}&bitmap=m&region=100K", "power of two"),
        (f"{TWO}&bitmap=m&leg-timeout=1ms", "100ms to 60s"),
        (f"{TWO}&bitmap=m&bitmap=n", "there twice"),
        (f"{TWO}&bitmap=m&legs=2", "no option of mirror"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_spec(text)
