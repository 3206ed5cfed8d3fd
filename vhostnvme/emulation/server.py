"""Several devices on one runtime, for as long as an `async with` lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from vhostnvme.emulation.device import Device, DeviceOptions
from vhostnvme.emulation.events import sentence_of
from vhostnvme.native import Runtime, RuntimeOptions

_log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    devices: Sequence[DeviceOptions], runtime_options: RuntimeOptions | None = None
) -> AsyncIterator[list[Device]]:
    """Starts the devices in order and logs what happens to them; stops them in reverse order.

    Raises:
        ConfigError, NativeError: as Device.start; those that had been started are stopped again.
    """
    running: list[Device] = []
    try:
        with Runtime(runtime_options) as runtime:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(_watch(runtime, running))
                try:
                    for options in devices:
                        device = Device(runtime, options)
                        await device.start()
                        running.append(device)
                    yield list(running)
                finally:
                    for device in reversed(running):
                        await device.stop()
                    watcher.cancel()
    except BaseExceptionGroup as errors:
        # The group wraps the caller's own exception too: give it back as it was.
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise


async def _watch(runtime: Runtime, devices: list[Device]) -> None:
    async for event in runtime.events():
        name = next((device.socket for device in devices if device.id == event.controller), None)
        level, sentence = sentence_of(event)
        _log.log(level, "%s%s", f"{name}: " if name else "", sentence)
