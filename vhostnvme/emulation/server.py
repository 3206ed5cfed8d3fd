"""Several devices on one runtime, for as long as an `async with` lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from vhostnvme.emulation.device import Device, DeviceOptions
from vhostnvme.emulation.events import sentence_of
from vhostnvme.emulation.placement import Placement
from vhostnvme.native import Runtime, RuntimeOptions

_log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    devices: Sequence[DeviceOptions],
    runtime_options: RuntimeOptions | None = None,
    *,
    log_level: int = logging.INFO,
) -> AsyncIterator[list[Device]]:
    """Starts the devices in order; stops them in reverse order.

    What happens to them is logged, from `log_level` on.

    Raises:
        ConfigError, NativeError: as Device.start; those that had been started are stopped again.
    """
    running: list[Device] = []
    try:
        with Runtime(runtime_options) as runtime:
            async with asyncio.TaskGroup() as group:
                placement = Placement(runtime)
                helpers = [
                    group.create_task(_watch(runtime, running, log_level)),
                    group.create_task(placement.run(running)),
                ]
                try:
                    for options in devices:
                        device = Device(runtime, options, placement)
                        await device.start()
                        running.append(device)
                    yield list(running)
                finally:
                    helpers.pop().cancel()  # nothing moves any more
                    for device in reversed(running):
                        await device.stop()
                    for helper in helpers:
                        helper.cancel()
    except BaseExceptionGroup as errors:
        # The group wraps the caller's own exception too: give it back as it was.
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise


async def _watch(runtime: Runtime, devices: list[Device], log_level: int) -> None:
    async for event in runtime.events():
        name = next((device.socket for device in devices if device.id == event.controller), None)
        level, sentence = sentence_of(event)
        if level < log_level and not _log.isEnabledFor(logging.DEBUG):
            continue
        _log.log(level, "%s%s", f"{name}: " if name else "", sentence)
