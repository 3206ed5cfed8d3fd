"""Options of a namespace on another target, as the library takes them."""

from __future__ import annotations

from typing import Any

from vhostnvme.native.keys import put_keys
from vhostnvme.native.library import ffi, lib
from vhostnvme.native.types import RemoteOptions


def native_remote(options: RemoteOptions) -> tuple[Any, list[Any]]:
    """The struct, and what has to stay alive while the library reads it."""
    remote = ffi.new("struct vn_remote_opts *")
    alive: list[Any] = [remote]

    def text(value: str) -> Any:
        alive.append(ffi.new("char[]", value.encode()))
        return alive[-1]

    remote.nr_paths = len(options.paths)
    for path, (host, port) in zip(remote.paths, options.paths, strict=False):
        path.host = text(host)
        path.port = port
    remote.nsid = options.nsid
    remote.subnqn = text(options.subnqn)
    remote.hostnqn = text(options.hostnqn)
    remote.hostid = options.hostid.bytes
    remote.nr_queues = options.queues
    remote.queue_entries = options.depth
    if options.header_digest:
        remote.flags |= lib.VN_REMOTE_HDGST
    if options.data_digest:
        remote.flags |= lib.VN_REMOTE_DDGST
    remote.kato_ms = options.keep_alive_ms
    remote.reconnect_ms = options.reconnect_ms
    remote.connect_ms = options.connect_ms
    remote.io_timeout_ms = options.timeout_ms
    return remote, alive + put_keys(options, remote)
