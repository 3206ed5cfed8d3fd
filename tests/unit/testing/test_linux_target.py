"""The script that makes the Linux kernel's target: what it asks of whom."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from vhostnvme.testing.linux_target import (
    LinuxHost,
    LinuxTarget,
    configure_script,
    main,
    port_forward,
)


def test_anybody_may_connect_where_no_host_is_named() -> None:
    script = configure_script(LinuxTarget(sizes_mib=(16, 32)))
    assert "echo 1 >/sys/kernel/config/nvmet/subsystems/" in script
    assert "truncate -s 32M /tmp/nvmet2" in script
    assert "losetup /dev/loop2" in script
    assert "tlshd" not in script


def test_a_host_brings_its_keys() -> None:
    host = LinuxHost(nqn="nqn.h", dhchap_key="DHHC-1:00:a:", tls_key="NVMeTLSkey-1:01:b:")
    script = configure_script(LinuxTarget(hosts=(host,), tls=True))
    assert "echo DHHC-1:00:a: >/sys/kernel/config/nvmet/hosts/nqn.h/dhchap_key" in script
    assert "dhchap_ctrl_key" not in script
    assert "attr_allow_any_host" in script
    assert script.count("-d NVMeTLSkey-1:01:b: -n nqn.h") == 4  # two subsystems, two identities
    assert "echo tls1.3 >" in script


def test_blocks_of_4096_bytes_come_from_a_file() -> None:
    assert "losetup /dev" not in configure_script(LinuxTarget(block_bytes=4096))


@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
@pytest.mark.parametrize("tls", [False, True])
def test_the_script_is_one_that_a_shell_understands(tls: bool) -> None:
    host = LinuxHost(nqn="nqn.h", tls_key="NVMeTLSkey-1:01:b:")
    script = configure_script(LinuxTarget(hosts=(host,), tls=tls))
    subprocess.run(["sh", "-n"], input=script.encode(), check=True, timeout=10)


def test_keys_without_a_host_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tls-key", "NVMeTLSkey-1:01:b:"])
    assert "give --host" in capsys.readouterr().err


def test_the_port_is_forwarded_from_the_loopback_address_only() -> None:
    assert port_forward(5000) == "hostfwd=tcp:127.0.0.1:5000-:4420"
