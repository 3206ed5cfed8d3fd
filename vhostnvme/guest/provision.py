"""Finds or makes what a guest needs: a QEMU with vfio-user, a kernel and an initramfs.

All of it is kept in the cache folder; each step is skipped when it is done, works in a temporary
folder and puts its result in place in one step. `python -m vhostnvme.guest.provision` does it all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ProvisionError, VhostNvmeError
from vhostnvme.guest import image
from vhostnvme.guest.accel import choose_accel
from vhostnvme.guest.debian import (
    PrivateApt,
    Suite,
    cache_dir,
    fingerprint,
    replace_tree,
    say,
    unpack_debs,
)
from vhostnvme.guest.qemu import QemuBinary

QEMU_VARIABLE = "VHOSTNVME_QEMU"
QEMU_PACKAGES = ("qemu-system-x86", "qemu-utils")
SUITES = (Suite("trixie"), Suite("trixie-backports"))
PREFERRED_SUITE = "trixie-backports"
# Parts of the packages that nothing here reads.
PRUNED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/bash-completion",
    "usr/share/icons",
    "usr/lib/python3",
    "usr/share/qemu/*.dtb",
    "usr/share/qemu/hppa-firmware*",
    "usr/share/qemu/skiboot.lid",
    "usr/share/qemu/openbios-*",
    "usr/share/qemu/u-boot*",
    "var/lib/dpkg",
)


@dataclass(frozen=True)
class Artifacts:
    """What every guest is started from."""

    qemu: QemuBinary
    kernel: Path
    initramfs: Path


@contextlib.contextmanager
def cache_lock(cache: Path) -> Iterator[None]:
    """One provisioning at a time; a second one waits and then finds the work done."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / "lock").open("w")
    except OSError as error:
        raise ProvisionError(
            f"The cache folder {cache} cannot be written ({error.strerror}): set VHOSTNVME_CACHE to"
            " a folder of yours."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another vhostnvme is fetching the same things: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def provision() -> Artifacts:
    """Everything a guest needs, fetched and built where it is missing.

    Raises ProvisionError with what failed and what to do.
    """
    cache = cache_dir()
    if found := find(cache):
        return found
    with cache_lock(cache):
        sweep(cache)
        qemu = qemu_of_host() or qemu_of_cache(cache) or fetch_qemu(cache)
        built = guest_dir(cache)
        if not built.is_dir():
            build_guest(cache, built)
        return Artifacts(qemu, *guest_files(built))


def find(cache: Path) -> Artifacts | None:
    """What is already there, without touching anything; None when something is missing."""
    built = guest_dir(cache)
    if not built.is_dir():
        return None
    qemu = qemu_of_host() or qemu_of_cache(cache)
    return Artifacts(qemu, *guest_files(built)) if qemu else None


def sweep(cache: Path) -> None:
    """Removes what an interrupted run left behind; called with the lock held."""
    for leftover in cache.glob("work-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def qemu_of_host() -> QemuBinary | None:
    """The user's choice, which must do; else the host's own QEMU, if it does."""
    if own := os.environ.get(QEMU_VARIABLE):
        return QemuBinary.probe([own])
    path = shutil.which("qemu-system-x86_64")
    if not path:
        return None
    try:
        return QemuBinary.probe([path])
    except ProvisionError:
        return None


def qemu_dir(cache: Path) -> Path:
    return cache / f"qemu-{fingerprint(' '.join(QEMU_PACKAGES), PREFERRED_SUITE, *PRUNED)}"


def qemu_of_cache(cache: Path) -> QemuBinary | None:
    root = qemu_dir(cache)
    if not root.is_dir():
        return None
    version = (root / "version").read_text().strip()
    return _qemu_of_tree(root, version)


def _qemu_of_tree(root: Path, version: str = "") -> QemuBinary:
    command = image.Tree(root).command("qemu-system-x86_64")
    firmware = (root / "usr/share/qemu", root / "usr/share/seabios")
    return QemuBinary(tuple(command), firmware, version)


def tool_of_cache(name: str) -> list[str] | None:
    """A program of the fetched QEMU packages (qemu-img, ...), as a command's first words."""
    root = qemu_dir(cache_dir())
    if not root.is_dir():
        return None
    return image.Tree(root).command(name)


def fetch_qemu(cache: Path) -> QemuBinary:
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
    try:
        say("QEMU: this machine has none with vfio-user (10.1 or newer); getting Debian's packages")
        apt = PrivateApt(work / "apt", SUITES, prefer=PREFERRED_SUITE)
        apt.update()
        debs = apt.download(QEMU_PACKAGES)
        say(f"QEMU: unpacking {len(debs)} packages")
        root = work / "tree"
        unpack_debs(debs, root)
        for pattern in PRUNED:
            for path in root.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        binary = _qemu_of_tree(root)
        version = QemuBinary.probe(binary.command).version
        (root / "version").write_text(version)
        replace_tree(root, qemu_dir(cache))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"QEMU: {version} is ready ({time.monotonic() - started:.0f} s)")
    found = qemu_of_cache(cache)
    assert found is not None
    return found


def guest_packages() -> list[str]:
    return [words[0] for words in image.read_list(image.recipe_dir() / "packages")]


def guest_dir(cache: Path) -> Path:
    return cache / f"guest-{image.recipe_fingerprint()}"


def guest_files(built: Path) -> tuple[Path, Path]:
    kernel = built / "vmlinux"
    return (kernel if kernel.is_file() else built / "vmlinuz", built / "initramfs.cpio")


def fetch_guest_packages(cache: Path) -> list[Path]:
    """The image's packages, kept as they come, so that a changed recipe needs no download."""
    packages = guest_packages()
    kept = cache / f"packages-{fingerprint(' '.join(packages), PREFERRED_SUITE)}"
    if not kept.is_dir():
        work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
        try:
            say("guest: getting the kernel and the programs of the image from Debian")
            apt = PrivateApt(work / "apt", SUITES, prefer=PREFERRED_SUITE)
            apt.update()
            apt.download(packages)
            shutil.rmtree(apt.archives / "partial", ignore_errors=True)
            (apt.archives / "lock").unlink(missing_ok=True)
            replace_tree(apt.archives, kept)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return sorted(kept.glob("*.deb"))


def build_guest(cache: Path, built: Path) -> None:
    debs = fetch_guest_packages(cache)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
    try:
        say("guest: making the image")
        tree = image.Tree(work / "tree")
        unpack_debs(debs, tree.root)
        ready = work / "ready"
        ready.mkdir()
        shutil.copyfile(tree.kernel_image(), ready / "vmlinuz")
        if not image.extract_vmlinux(ready / "vmlinuz", ready / "vmlinux"):
            say("guest: the kernel stays compressed, so the boot takes longer")
        image.build_initramfs(tree, work, ready / "initramfs.cpio")
        replace_tree(ready, built)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"guest: the image is ready ({time.monotonic() - started:.0f} s)")
    keep_newest(cache, "guest-*", built)


def keep_newest(cache: Path, pattern: str, current: Path, keep: int = 3) -> None:
    """Images of older recipes go away, but for a few that other checkouts may use."""
    others = sorted(
        (path for path in cache.glob(pattern) if path != current), key=lambda p: p.stat().st_mtime
    )
    for path in others[: max(0, len(others) - keep)]:
        shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    try:
        found = provision()
        accel = choose_accel(found.qemu, found.kernel)
    except VhostNvmeError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"QEMU {found.qemu.version}, accelerator {accel.name} ({accel.reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
