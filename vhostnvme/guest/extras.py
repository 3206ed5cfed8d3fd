"""What a user adds to the guest for one boot: folders, and whole Debian packages.

Each is an archive of its own behind the image's: Linux unpacks them one after the other, so the
image itself is not made again. Packages and package sources are fetched once and kept in the cache.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vhostnvme.errors import ConfigError, ProvisionError
from vhostnvme.guest.cpio import CpioWriter
from vhostnvme.guest.debian import (
    PrivateApt,
    Suite,
    cache_dir,
    fingerprint,
    replace_tree,
    say,
    unpack_debs,
)
from vhostnvme.guest.provision import PREFERRED_SUITE, SUITES, Artifacts, cache_lock, keep_newest

HOME = PurePosixPath("/root")
ARCHIVE = "packages.cpio"
# Parts of packages that no test in a guest reads; var is the guest's own.
LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/zoneinfo",
    "usr/share/i18n",
    "usr/lib/x86_64-linux-gnu/gconv",
    "var",
)


@dataclass(frozen=True, slots=True)
class GuestFolder:
    """A folder of the host that lies in the guest as `inside`, executable files as such."""

    path: Path
    inside: PurePosixPath

    @classmethod
    def parse(cls, text: str) -> GuestFolder:
        """`DIR` lies in the guest as /root/NAME, NAME being its own; `DIR:/WHERE` as /WHERE.

        Raises:
            ConfigError: there is no such folder, or WHERE is no absolute path.
        """
        name, colon, where = text.rpartition(":")
        if not colon or not where.startswith("/"):
            name, where = text, ""
        path = Path(name)
        if not path.is_dir():
            raise ConfigError(f"{name} is not a folder: name one that is to be in the guest")
        inside = PurePosixPath(where) if where else HOME / path.resolve().name
        if ".." in inside.parts:
            raise ConfigError(f"{where} has '..' in it: name the place in the guest without")
        return cls(path, inside)


def extended(
    artifacts: Artifacts,
    into: Path,
    *,
    folders: Sequence[GuestFolder] = (),
    packages: Sequence[str] = (),
) -> Artifacts:
    """The same guest with these in it too. Of two files of one name, the one named later stays.

    Args:
        into: an existing folder that lives as long as the guest; the initramfs is written there.

    Raises:
        ProvisionError: a package cannot be had.
    """
    if not folders and not packages:
        return artifacts
    target = into / "initramfs.cpio"
    shutil.copyfile(artifacts.initramfs, target)
    with target.open("ab") as stream:
        if packages:
            with package_archive(packages).open("rb") as archive:
                shutil.copyfileobj(archive, stream)
        if folders:
            cpio = CpioWriter(stream)
            for folder in folders:
                below = str(folder.inside).lstrip("/")
                if below:
                    cpio.directory(below)
                cpio.tree(folder.path, below)
            cpio.close()
    return replace(artifacts, initramfs=target)


def package_archive(packages: Sequence[str]) -> Path:
    """An archive of these Debian packages with all that they depend on, from the cache or fetched.

    No maintainer script has run: what those would have made (alternatives, users) is not there.
    """
    cache = cache_dir()
    names = sorted(set(packages))
    kept = cache / f"with-{fingerprint(Path(__file__), *names, PREFERRED_SUITE)}"
    if (kept / ARCHIVE).is_file():
        return kept / ARCHIVE
    with cache_lock(cache):
        if not kept.is_dir():
            _fetch_packages(cache, names, kept)
    return kept / ARCHIVE


def _fetch_packages(cache: Path, names: list[str], kept: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
    try:
        say(f"guest: getting {', '.join(names)} from Debian")
        apt = PrivateApt(work / "apt", SUITES, prefer=PREFERRED_SUITE)
        apt.update()
        tree, ready = work / "tree", work / "ready"
        unpack_debs(apt.download(names), tree)
        for name in LEFT_OUT:
            shutil.rmtree(tree / name, ignore_errors=True)
        ready.mkdir()
        with (ready / ARCHIVE).open("wb") as stream:
            cpio = CpioWriter(stream)
            cpio.tree(tree)
            cpio.close()
        replace_tree(ready, kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    keep_newest(cache, "with-*", kept)


def package_source(package: str) -> Path:
    """The unpacked source of a Debian package, with Debian's patches, from the cache or fetched.

    Raises:
        ProvisionError: it cannot be had or unpacked.
    """
    cache = cache_dir()
    kept = cache / f"source-{package}-{fingerprint(PREFERRED_SUITE)}"
    if kept.is_dir():
        return kept
    with cache_lock(cache):
        if kept.is_dir():
            return kept
        work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
        try:
            say(f"guest: getting the source of {package} from Debian")
            suites = [Suite(suite.name, sources=True) for suite in SUITES]
            apt = PrivateApt(work / "apt", suites, prefer=PREFERRED_SUITE)
            apt.update()
            files = apt.source(package, work / "files")
            described = [path for path in files if path.suffix == ".dsc"]
            if not described:
                raise ProvisionError(f"Debian's source of {package} came without its .dsc file.")
            _unpack_source(described[0], work / "tree")
            replace_tree(work / "tree", kept)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return kept


def _unpack_source(described: Path, into: Path) -> None:
    """apt has checked the signature of the list that names the file, and the file by that."""
    command = ["dpkg-source", "--no-check", "--extract", str(described), str(into)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except FileNotFoundError:
        raise ProvisionError(
            "Unpacking a Debian source needs dpkg-source: install the package dpkg-dev."
        ) from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise ProvisionError(f"Unpacking {described.name} failed: {words[0]}")
