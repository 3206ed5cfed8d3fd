"""The parts of the image's making that need no packages."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError, ProvisionError
from vhostnvme.guest import accel, debian, image, provision
from vhostnvme.guest.cpio import CpioWriter
from vhostnvme.guest.qemu import QemuBinary
from vhostnvme.guest.standin import parse_symbols, stand_in_source


def test_module_closure_follows_dependencies() -> None:
    text = (
        "kernel/a/nvme-tcp.ko.xz: kernel/a/nvme-fabrics.ko.xz\n"
        "kernel/a/nvme-fabrics.ko.xz:\nkernel/fs/xfs.ko.xz:\n"
    )
    assert image.module_closure(text, ["nvme_tcp", "ext4"]) == [
        "kernel/a/nvme-fabrics.ko.xz",
        "kernel/a/nvme-tcp.ko.xz",
    ]


def bzimage(payload: bytes) -> bytes:
    """As little of a bzImage as says where its payload is."""
    header = bytearray(0x1000)
    header[0x1F1] = 7
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 0, len(payload))
    return bytes(header[: 8 * 512]) + payload


def test_vmlinux_is_taken_out_of_a_bzimage(tmp_path: Path) -> None:
    kernel = b"\x7fELF" + bytes(1000)
    packed = subprocess.run(["zstd", "-cq"], input=kernel, capture_output=True, check=True).stdout
    (tmp_path / "bz").write_bytes(bzimage(packed + struct.pack("<I", len(kernel))))
    assert image.extract_vmlinux(tmp_path / "bz", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == kernel


@pytest.mark.parametrize("data", [b"", b"x" * 5000, bzimage(b"\x1f\x8bgzip")])
def test_an_unknown_kernel_stays_as_it_is(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bz").write_bytes(data)
    assert not image.extract_vmlinux(tmp_path / "bz", tmp_path / "out")


def test_cpio_makes_parents_once() -> None:
    stream = io.BytesIO()
    cpio = CpioWriter(stream)
    cpio.file("a/b/c", b"12345", 0o755)
    cpio.file("a/b/d", b"")
    cpio.symlink("a/l", "b/c")
    cpio.close()
    data = stream.getvalue()
    assert len(data) % 4 == 0
    assert data.count(b"070701") == 6
    assert data.index(b"a/b\0") < data.index(b"a/b/c\0") < data.index(b"12345")


def test_recipe_fingerprint_sees_the_users_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = image.recipe_fingerprint()
    monkeypatch.setenv(image.OVERLAY_VARIABLE, str(tmp_path))
    (tmp_path / "hello").write_text("1")
    one = image.recipe_fingerprint()
    (tmp_path / "hello").write_text("2")
    assert len({plain, one, image.recipe_fingerprint()}) == 3
    monkeypatch.setenv(image.OVERLAY_VARIABLE, str(tmp_path / "hello"))
    with pytest.raises(ProvisionError, match="is not a folder"):
        image.recipe_fingerprint()


def test_stand_ins_define_what_is_wanted() -> None:
    listing = (
        "     1: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND rbd_open@LIBRBD_1 (3)\n"
        "     2: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND nfs_read\n"
        "     3: 0000000000001000    10 FUNC    GLOBAL DEFAULT   12 main\n"
    )
    wanted = parse_symbols(listing, defined=False)
    assert wanted == {("rbd_open", "LIBRBD_1"), ("nfs_read", "")}
    text, script = stand_in_source(wanted, "librbd.so.1")
    assert "void rbd_open(void)" in text
    assert "librbd.so.1 is not part of this guest image" in text
    assert script == "LIBRBD_1 { global: rbd_open; };\n"


def test_the_mirror_is_the_machines_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    listing = (
        "Ubuntu|noble|http://u.example.org/ubuntu/\n"
        "Debian|bookworm-security|http://m.example.org/debian-security/\n"
        "Debian|bookworm|http://m.example.org/debian/\n"
    )
    monkeypatch.setattr(debian, "_output", lambda _: listing)
    assert debian.debian_mirror() == "http://m.example.org/debian"
    monkeypatch.setattr(debian, "_output", lambda _: "Ubuntu|noble|http://u.example.org/ubuntu/\n")
    script = tmp_path / "sid"
    script.write_text("# a suite\ndefault_mirror http://d.example.org/debian\n")
    monkeypatch.setattr(debian, "DEBOOTSTRAP_SCRIPT", script)
    assert debian.debian_mirror() == "http://d.example.org/debian"
    script.unlink()
    with pytest.raises(ProvisionError, match=debian.MIRROR_VARIABLE):
        debian.debian_mirror()
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://own.example.org/debian/")
    assert debian.debian_mirror() == "http://own.example.org/debian"


def test_security_has_an_archive_of_its_own() -> None:
    line = debian.Suite("bookworm-security", sources=True).line("http://m.example.org/debian")
    assert line.startswith("deb-src ")
    assert line.endswith(" http://m.example.org/debian-security bookworm-security main\n")


def test_a_replaced_tree_is_never_half(tmp_path: Path) -> None:
    for text in ("1", "2"):
        ready = tmp_path / "work" / "ready"
        ready.mkdir(parents=True)
        (ready / "file").write_text(text)
        debian.replace_tree(ready, tmp_path / "kept")
        assert (tmp_path / "kept" / "file").read_text() == text
    assert not list((tmp_path / "work").iterdir())


def test_what_an_interrupted_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "work-abc" / "deep").mkdir(parents=True)
    (tmp_path / "guest-abc").mkdir()
    provision.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["guest-abc"]


def test_an_unwritable_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ProvisionError, match="VHOSTNVME_CACHE"),
        provision.cache_lock(tmp_path / "file" / "cache"),
    ):
        pass


def test_the_users_qemu_must_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provision.QEMU_VARIABLE, "/nowhere/qemu")
    with pytest.raises(ProvisionError, match="/nowhere/qemu cannot be run"):
        provision.qemu_of_host()


def test_virtualisation_flags() -> None:
    assert accel.has_virtualisation_flag("model: x\nflags\t\t: fpu svm sse\n")
    assert not accel.has_virtualisation_flag("flags\t\t: fpu svmx sse\n")


def test_the_users_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(accel.ACCEL_VARIABLE, "kvm")
    assert accel.choose_accel(QemuBinary(("q",)), Path("/k")).name == "kvm"
    monkeypatch.setenv(accel.ACCEL_VARIABLE, "xen")
    with pytest.raises(ConfigError, match="xen is not known"):
        accel.choose_accel(QemuBinary(("q",)), Path("/k"))
