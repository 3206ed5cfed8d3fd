"""Gets packages and package sources from Debian into plain folders.

An apt of its own: private lists, cache, status and pins. The machine's apt configuration is read,
for proxies and the mirror, and never written. Needs no root. Standard library only: the build
uses it too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from vhostnvme.errors import ProvisionError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBOOTSTRAP_SCRIPT = Path("/usr/share/debootstrap/scripts/sid")
MIRROR_VARIABLE = "VHOSTNVME_DEBIAN_MIRROR"
APT_TIME_LIMIT_S = 900

Progress = Callable[[str], None]


def say(line: str) -> None:
    """The progress line of every step: to stderr, so that stdout stays the user's."""
    sys.stderr.write(f"vhostnvme: {line}\n")
    sys.stderr.flush()


def cache_dir() -> Path:
    """The one folder of everything downloaded: $VHOSTNVME_CACHE, else the user's cache folder."""
    if own := os.environ.get("VHOSTNVME_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "vhostnvme"


@dataclass(frozen=True)
class Suite:
    """One line of apt's sources: a suite of the Debian archive, or of its security archive."""

    name: str
    sources: bool = False

    def line(self, mirror: str) -> str:
        kind, target = ("deb-src", "Sources") if self.sources else ("deb", "Packages")
        arch = "" if self.sources else " arch=amd64"
        base = security_mirror(mirror) if self.name.endswith("-security") else mirror
        return f"{kind} [signed-by={KEYRING}{arch} target={target}] {base} {self.name} main\n"


def debian_mirror() -> str:
    """Where Debian's packages are taken from.

    $VHOSTNVME_DEBIAN_MIRROR, else what this machine's apt uses for Debian, else the default that
    the debootstrap package carries (Ubuntu, for one).
    """
    if own := os.environ.get(MIRROR_VARIABLE):
        return own.rstrip("/")
    if found := _mirror_of_apt(
        _output(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)"])
    ):
        return found
    if found := _mirror_of_apt(
        _output(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(SITE)"])
    ):
        return found
    if DEBOOTSTRAP_SCRIPT.is_file():
        match = re.search(r"^default_mirror\s+(\S+)", DEBOOTSTRAP_SCRIPT.read_text(), re.MULTILINE)
        if match:
            return match.group(1).rstrip("/")
    raise ProvisionError(
        "No Debian mirror is known on this machine: run 'apt-get update', install the package"
        f" debootstrap, or set {MIRROR_VARIABLE} to a mirror's address."
    )


def _mirror_of_apt(listing: str) -> str | None:
    for row in listing.splitlines():
        origin, _, rest = row.partition("|")
        codename, _, uri = rest.partition("|")
        if (
            origin == "Debian"
            and uri.startswith(("http://", "https://", "file:"))
            and "security" not in codename
        ):
            return uri.rstrip("/")
    return None


def security_mirror(mirror: str) -> str:
    """The security archive beside a mirror: `debian` in the path becomes `debian-security`."""
    parts = urlsplit(mirror)
    path = re.sub(r"/debian/?$", "/debian-security", parts.path)
    return urlunsplit(parts._replace(path=path))


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


# Emptied lists: hooks that belong to the machine's own package handling have no business here.
_CLEARED = (
    "APT::Architectures",
    "APT::Update::Pre-Invoke",
    "APT::Update::Post-Invoke",
    "APT::Update::Post-Invoke-Success",
    "DPkg::Pre-Invoke",
    "DPkg::Post-Invoke",
    "DPkg::Pre-Install-Pkgs",
)


class PrivateApt:
    """apt-get on a root of its own below `root`; nothing is ever installed with it."""

    def __init__(
        self,
        root: Path,
        suites: Iterable[Suite],
        *,
        prefer: str | None = None,
        mirror: str | None = None,
    ) -> None:
        self.root = root.absolute()
        self.log = self.root / "apt.log"
        self.archives = self.root / "cache" / "archives"
        lists = self.root / "state" / "lists"
        for folder in (lists / "partial", self.archives / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        if not KEYRING.is_file():
            raise ProvisionError(
                f"The key file {KEYRING} is missing: install the package debian-archive-keyring."
            )
        where = mirror or debian_mirror()
        (self.root / "status").touch()
        (self.root / "sources.list").write_text("".join(suite.line(where) for suite in suites))
        pin = f"Package: *\nPin: release n={prefer}\nPin-Priority: 900\n" if prefer else ""
        (self.root / "preferences").write_text(pin)
        options = {
            "Dir::State": self.root / "state",
            "Dir::State::lists": lists,
            "Dir::State::status": self.root / "status",
            "Dir::State::extended_states": self.root / "extended_states",
            "Dir::Cache": self.root / "cache",
            "Dir::Cache::archives": self.archives,
            "Dir::Etc::SourceList": self.root / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": self.root / "preferences",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::Log": self.root,
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "60",
            "Acquire::https::Timeout": "60",
        }
        text = "".join(f"#clear {name};\n" for name in _CLEARED)
        text += "".join(f'{name} "{value}";\n' for name, value in options.items())
        text += 'APT::Architectures { "amd64"; };\n'
        (self.root / "apt.conf").write_text(text)

    def run(self, *arguments: str, cwd: Path | None = None) -> None:
        """Runs one apt-get; its output goes to the log, which the error names."""
        command = ["apt-get", f"-c={self.root / 'apt.conf'}", "-q", *arguments]
        try:
            with self.log.open("ab") as log:
                log.write(f"$ {' '.join(command)}\n".encode())
                log.flush()
                done = subprocess.run(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=cwd,
                    env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
                    timeout=APT_TIME_LIMIT_S,
                    check=False,
                )
        except FileNotFoundError:
            raise ProvisionError(
                "There is no apt-get on this machine: QEMU and the guest are Debian packages,"
                " which a Debian or Ubuntu system can fetch."
            ) from None
        except subprocess.TimeoutExpired:
            raise ProvisionError(
                f"apt-get {arguments[0]} did not end within {APT_TIME_LIMIT_S} s:"
                " check the network and try again."
            ) from None
        if done.returncode != 0:
            raise ProvisionError(
                f"apt-get {arguments[0]} failed ({self._last_error()}):"
                " check the network and the mirror, then try again."
            )

    def _last_error(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line[2:].strip() for line in lines if line.startswith("E:")]
        return errors[0] if errors else (lines[-1].strip() if lines else "no output")

    def update(self) -> None:
        self.run("update")

    def download(self, packages: Sequence[str]) -> list[Path]:
        """The .deb files of these packages and of all that they depend on."""
        self.run("install", "--yes", "--no-install-recommends", "--download-only", *packages)
        return sorted(self.archives.glob("*.deb"))

    def source(self, package: str, into: Path) -> list[Path]:
        """The files of a source package, checked by apt, not unpacked."""
        into.mkdir(parents=True, exist_ok=True)
        self.run("source", "--download-only", package, cwd=into)
        return sorted(into.iterdir())


def unpack_debs(debs: Iterable[Path], into: Path) -> None:
    """Unpacks packages into a tree; no maintainer script runs."""
    into.mkdir(parents=True, exist_ok=True)
    # Debian's merged /usr: some packages still bring files below these links.
    for name in ("bin", "sbin", "lib", "lib64"):
        (into / "usr" / name).mkdir(parents=True, exist_ok=True)
        link = into / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(f"usr/{name}")
    for deb in debs:
        pipe = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(deb)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        tar = subprocess.run(
            [
                "tar",
                "--extract",
                "--file=-",
                "--no-same-owner",
                "--keep-directory-symlink",
                f"--directory={into}",
            ],
            stdin=pipe.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert pipe.stdout is not None
        pipe.stdout.close()
        if pipe.wait() != 0 or tar.returncode != 0:
            reason = tar.stderr.strip().splitlines()[-1:] or ["damaged package"]
            raise ProvisionError(
                f"Unpacking {deb.name} failed ({reason[0]}): check the free space and try again."
            )


def fingerprint(*parts: str | bytes | Path) -> str:
    """A short name for a set of inputs: strings, and the contents of files."""
    digest = hashlib.sha256()
    for part in parts:
        data = (
            part.read_bytes()
            if isinstance(part, Path)
            else part.encode()
            if isinstance(part, str)
            else part
        )
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def replace_tree(ready: Path, target: Path) -> None:
    """Puts a finished folder in place in one step; what was there goes away afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old = ready.with_name(ready.name + ".old")
        target.rename(old)
        ready.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        ready.rename(target)
