"""Makes the guest's kernel and initramfs from unpacked Debian packages, by the recipe in images/.

Called by provision.py, which fetched the packages and keeps the result in the cache.
"""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from vhostnvme.errors import ProvisionError
from vhostnvme.guest.cpio import CpioWriter
from vhostnvme.guest.debian import fingerprint
from vhostnvme.guest.standin import build_stand_in

OVERLAY_VARIABLE = "VHOSTNVME_GUEST_OVERLAY"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
# Programs look for their libraries here; ceph's are outside of the loader's own folders.
LIBRARY_FOLDERS = (LIBRARIES, f"{LIBRARIES}/ceph")
PROGRAM_FOLDERS = ("usr/sbin", "usr/bin")


def recipe_dir() -> Path:
    """images/ of the checkout, or the copy that an installed package carries."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "images", package / "data" / "images"):
        if (folder / "agent.c").is_file():
            return folder
    raise ProvisionError(
        f"The guest's recipe (images/) is neither beside nor inside {package}:"
        " install vhostnvme again."
    )


def read_list(path: Path) -> list[list[str]]:
    """Lines of words, without comments and empty lines."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return [words for words in lines if words]


def user_overlay() -> Path | None:
    """The folder that the user adds to the image, if any."""
    own = os.environ.get(OVERLAY_VARIABLE)
    if not own:
        return None
    folder = Path(own)
    if not folder.is_dir():
        raise ProvisionError(f"{OVERLAY_VARIABLE}={own} is not a folder: correct or unset it.")
    return folder


def recipe_fingerprint() -> str:
    """Changes when anything that goes into the image by our hand changes."""
    here = Path(__file__)
    parts: list[str | bytes | Path] = [
        here,
        *(here.with_name(n) for n in ("cpio.py", "standin.py")),
    ]
    for folder in (recipe_dir(), user_overlay()):
        for path in sorted(folder.rglob("*")) if folder else []:
            if path.is_symlink():
                parts += [str(path), str(path.readlink())]
            elif path.is_file():
                parts += [str(path.relative_to(folder or path)), str(path.stat().st_mode), path]
    return fingerprint(*parts)


class Tree:
    """A folder of unpacked Debian packages whose programs run through its own loader."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def library_path(self) -> str:
        return ":".join(str(self.root / folder) for folder in LIBRARY_FOLDERS)

    def command(self, program: str, *, name: str | None = None) -> list[str]:
        """The start of a command line for one of the tree's programs."""
        loader = self.root / LIBRARIES / "ld-linux-x86-64.so.2"
        as_name = ["--argv0", name] if name else []
        return [str(loader), "--library-path", self.library_path, *as_name, str(self.find(program))]

    def find(self, program: str) -> Path:
        for folder in PROGRAM_FOLDERS:
            path = self.root / folder / program
            if path.is_symlink() and str(path.readlink()).startswith("/"):
                path = self.root / str(path.readlink()).lstrip("/")
            if path.is_file():
                return path
        raise ProvisionError(f"The Debian packages of the guest have no program '{program}'.")

    def libraries(self, program: Path, preferred: Path | None = None) -> list[Path]:
        """The shared libraries a program needs, as its loader finds them: in `preferred` first."""
        loader = self.root / LIBRARIES / "ld-linux-x86-64.so.2"
        path = f"{preferred}:{self.library_path}" if preferred else self.library_path
        listed = run(
            [str(loader), "--library-path", path, "--list", str(program)],
            f"finding the libraries of {program.name}",
        )
        found = []
        for line in listed.splitlines():
            words = line.split()
            if len(words) >= 3 and words[1] == "=>" and words[2].startswith("/"):
                found.append(Path(words[2]))
        return found

    def kernel_release(self) -> str:
        releases = sorted(path.name for path in (self.root / "usr/lib/modules").glob("*"))
        if not releases:
            raise ProvisionError("The Debian packages of the guest brought no kernel.")
        return releases[-1]

    def kernel_image(self) -> Path:
        """Newer kernel packages keep it beside the modules, older ones in /boot."""
        release = self.kernel_release()
        for name in (f"usr/lib/modules/{release}/vmlinuz", f"boot/vmlinuz-{release}"):
            if (self.root / name).is_file():
                return self.root / name
        raise ProvisionError(f"The kernel package {release} has no vmlinuz.")


def run(command: Sequence[str], what: str, *, data: bytes | None = None) -> str:
    """Runs a tool to its end; its last words are in the error."""
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=300)
    except FileNotFoundError:
        raise ProvisionError(
            f"{what.capitalize()} needs the program '{command[0]}':"
            " install the package that has it."
        ) from None
    except subprocess.TimeoutExpired:
        raise ProvisionError(f"{what.capitalize()} did not end within 300 s.") from None
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise ProvisionError(f"{what.capitalize()} failed: {words[0]}")
    return done.stdout.decode(errors="replace")


def extract_vmlinux(image: Path, target: Path) -> bool:
    """Takes the kernel proper out of a bzImage: a guest under TCG needs seconds to unpack it.

    Documentation/arch/x86/boot.rst: payload_offset and payload_length, protocol 2.08. Returns False
    when it is packed in a way that is not known here; the bzImage boots as well.
    """
    data = image.read_bytes()
    if len(data) < 0x260 or data[0x202:0x206] != b"HdrS":
        return False
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = data[start : start + length]
    if payload[:4] == b"\x28\xb5\x2f\xfd" and shutil.which("zstd"):
        # The last four bytes are the unpacked size, which is no part of the zstd stream.
        done = subprocess.run(
            ["zstd", "-dcq"], input=payload[:-4], capture_output=True, check=False, timeout=120
        )
        unpacked = done.stdout if done.returncode == 0 else b""
    elif payload[:6] == b"\xfd7zXZ\0":
        unpacked = lzma.LZMADecompressor().decompress(payload)
    else:
        return False
    if unpacked[:4] != b"\x7fELF":
        return False
    target.write_bytes(unpacked)
    return True


def module_closure(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """The modules' paths with all they need, by the text of modules.dep, without built-in ones."""
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[Path(path).name.partition(".")[0].replace("-", "_")] = path
    found: list[str] = []
    for name in wanted:
        if module := by_name.get(name.replace("-", "_")):
            found += [module, *needs[module]]
    return sorted(set(found))


def build_modules(tree: Tree, wanted: Sequence[str], root: Path) -> None:
    """Puts the wanted modules, unpacked, and their index below root/usr/lib/modules."""
    release = tree.kernel_release()
    source = tree.root / "usr/lib/modules" / release
    run(
        [*tree.command("kmod", name="depmod"), "-b", str(tree.root), release],
        "indexing the modules",
    )
    target = root / "usr/lib/modules" / release
    target.mkdir(parents=True)
    for name in module_closure((source / "modules.dep").read_text(), wanted):
        data = (source / name).read_bytes()
        plain = target / name.removesuffix(".xz")
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.write_bytes(lzma.decompress(data) if name.endswith(".xz") else data)
        run(["strip", "--strip-debug", str(plain)], f"stripping {plain.name}")
    for index in ("modules.builtin", "modules.order"):
        if (source / index).is_file():
            shutil.copyfile(source / index, target / index)
    (root / "lib").symlink_to("usr/lib")
    run(
        [*tree.command("kmod", name="depmod"), "-b", str(root), release],
        "indexing the guest's modules",
    )
    for binary in target.glob("modules.*.bin"):
        binary.unlink()  # busybox reads the text files
    (root / "lib").unlink()


def build_agent(target: Path) -> None:
    source = recipe_dir() / "agent.c"
    run(
        ["gcc", "-O2", "-Wall", "-static", "-s", "-o", str(target), str(source)],
        "compiling the guest's agent",
    )


def build_initramfs(tree: Tree, work: Path, target: Path) -> None:
    """Writes the initramfs, not compressed: unpacking costs more under TCG than the size."""
    recipe = recipe_dir()
    root = work / "image-root"
    root.mkdir(parents=True)
    build_modules(tree, [words[0] for words in read_list(recipe / "modules")], root)
    build_agent(work / "guest-agent")
    busybox = tree.find("busybox")
    with target.open("wb") as stream:
        cpio = CpioWriter(stream)
        for name in ("usr/bin", "usr/sbin", LIBRARIES, "usr/lib64", "etc/boot.d", "root"):
            cpio.directory(name)
        for name in ("dev", "proc", "sys", "run", "mnt", "tmp"):
            cpio.directory(name)
        for name in ("bin", "sbin", "lib", "lib64"):
            cpio.symlink(name, f"usr/{name}")
        cpio.symlink("usr/lib64/ld-linux-x86-64.so.2", f"/{LIBRARIES}/ld-linux-x86-64.so.2")
        cpio.symlink("var", "run")
        cpio.device("dev/console", 5, 1)
        cpio.device("dev/null", 1, 3, 0o666)
        cpio.file("init", (recipe / "init").read_bytes(), 0o755)
        cpio.file("usr/sbin/guest-agent", (work / "guest-agent").read_bytes(), 0o755)
        cpio.file("usr/bin/busybox", busybox.read_bytes(), 0o755)
        _add_programs(cpio, tree, recipe, work)
        for applet in run([str(busybox), "--list-full"], "listing busybox's applets").split():
            path = applet if applet.startswith("usr/") else f"usr/{applet}"
            if not cpio.has(path) and not cpio.has(path.replace("/bin/", "/sbin/")):
                cpio.symlink(path, "/usr/bin/busybox")
        cpio.tree(root)
        cpio.tree(recipe / "overlay")
        if extra := user_overlay():
            cpio.tree(extra)
        cpio.close()


def _add_programs(cpio: CpioWriter, tree: Tree, recipe: Path, work: Path) -> None:
    absent = {words[0] for words in read_list(recipe / "absent")}
    libraries = {"ld-linux-x86-64.so.2": tree.root / LIBRARIES / "ld-linux-x86-64.so.2"}
    for name, *aliases in read_list(recipe / "programs"):
        path = tree.find(name)
        inside = str(path.relative_to(tree.root))
        cpio.file(inside, path.read_bytes(), 0o755)
        for alias in aliases:
            cpio.symlink(f"usr/sbin/{alias}", f"/{inside}")
        stand_ins = work / "stand-ins" / name
        stand_ins.mkdir(parents=True)
        for library in tree.libraries(path):
            if library.name in absent:
                build_stand_in(path, library, stand_ins / library.name)
        for library in tree.libraries(path, stand_ins):
            known = libraries.setdefault(library.name, library)
            if known.parent != library.parent:
                raise ProvisionError(
                    f"images/absent names {library.name}, which more than one program"
                    " of the guest uses."
                )
    for name, library in sorted(libraries.items()):
        cpio.file(f"{LIBRARIES}/{name}", library.read_bytes(), 0o755)
