"""What bare TCP can do, in a process of its own, so that nothing else runs in it."""

from __future__ import annotations

import argparse
import json
import sys

from vhostnvme.native.perf import wire_run

# On the wire (NVMe/TCP 3.6.2): a command's capsule, the heads of data and of R2T, a response.
CAPSULE_BYTES = 72
HEAD_BYTES = 24
IN_CAPSULE_BYTES_MAX = 8 << 10


def message_bytes(rw: str, block_size: int) -> tuple[int, int]:
    """What one I/O sends there and back, without digests."""
    if "read" in rw:
        return CAPSULE_BYTES, HEAD_BYTES + block_size
    if block_size <= IN_CAPSULE_BYTES_MAX:
        return CAPSULE_BYTES + block_size, HEAD_BYTES
    # Asked for by an R2T: one more head each way.
    return CAPSULE_BYTES + HEAD_BYTES + block_size, 2 * HEAD_BYTES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("request_bytes", "reply_bytes", "depth"):
        parser.add_argument(name, type=int)
    for name in ("seconds", "warmup"):
        parser.add_argument(name, type=float)
    args = parser.parse_args()
    result = wire_run(
        args.request_bytes,
        args.reply_bytes,
        depth=args.depth,
        seconds=args.seconds,
        warmup=args.warmup,
    )
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
