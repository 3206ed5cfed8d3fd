"""The storage behind a disk fails: the guest gets an error it can name, and all else goes on."""

from __future__ import annotations

from tests_guest import FullDiskServer, GuestRig

# What Linux makes of NVMe's media errors: ENODATA, as of any SSD.
MEDIUM_ERROR = "No data available"
# What the kernel may say of the errors that are meant.
MEANT = ("I/O error", "Buffer I/O", "critical space allocation", "nvme_log_error")


def test_a_failed_write_is_an_error_of_that_write(rig: GuestRig) -> None:
    bad, good = rig.node("FAIL", 1), rig.node("FAIL", 2)
    controller = rig.controller("FAIL")
    before = rig.json(f"nvme smart-log {controller} -o json")
    with rig.quiet_kernel(*MEANT):
        failed = rig.run(f"dd if=/dev/zero of={bad} bs=4k count=1 seek=5 oflag=direct", check=False)
        assert failed.exit_code != 0
        assert MEDIUM_ERROR in failed.stderr
        # Reads of it work, and so does its neighbour on the same controller.
        rig.run(f"dd if={bad} of=/dev/null bs=4k count=1 seek=5 iflag=direct")
        rig.run(f"dd if=/dev/zero of={good} bs=4k count=8 oflag=direct")
    after = rig.json(f"nvme smart-log {controller} -o json")
    assert after["media_errors"] > before["media_errors"]
    assert after["num_err_log_entries"] > before["num_err_log_entries"]
    entry = rig.json(f"nvme error-log {controller} -e 1 -o json")["errors"][0]
    assert entry["nsid"] == 1
    assert entry["lba"] == 5 * 8
    assert entry["sqid"] > 0
    assert entry["status_field"] & 0x7FF == 0x280  # Write Fault
    assert rig.info("FAIL", 1).errors > 0
    rig.wait_sentence("FAIL", "the storage behind namespace 1 failed: namespace 1 could not write")
    assert not rig.call(rig.device("FAIL").info).fatal


def test_a_failed_read_is_an_error_of_that_read(rig: GuestRig) -> None:
    """The filter lets 400 commands pass, so that the kernel's look at partitions succeeds."""
    bad = rig.node("FAIL", 3)
    with rig.quiet_kernel(*MEANT):
        failed = rig.run(f"dd if={bad} of=/dev/null bs=512 count=500 iflag=direct", check=False)
        assert failed.exit_code != 0
        assert MEDIUM_ERROR in failed.stderr
        rig.run(f"dd if=/dev/zero of={bad} bs=4k count=1 oflag=direct")
    entry = rig.json(f"nvme error-log {rig.controller('FAIL')} -e 1 -o json")["errors"][0]
    assert entry["status_field"] & 0x7FF == 0x281  # Unrecovered Read Error


def test_a_file_system_on_failing_storage_goes_read_only_and_the_device_lives(
    rig: GuestRig,
) -> None:
    with rig.quiet_kernel(*MEANT):
        failed = rig.run(f"mkfs.ext4 -q -F {rig.node('FAIL', 1)}", check=False)
        assert failed.exit_code != 0
        node = rig.node("FAIL", 2)
        rig.run(
            f"mkfs.ext4 -q -F {node} && mkdir -p /tmp/f && mount {node} /tmp/f"
            " && echo fine >/tmp/f/x && umount /tmp/f"
        )


def test_a_full_file_system_under_the_disk(rig: GuestRig, full_disk: FullDiskServer) -> None:
    node = rig.node("FULL")
    rig.run("head -c 4194304 /dev/urandom >/tmp/four")
    rig.run(f"dd if=/tmp/four of={node} bs=64k oflag=direct")
    full_disk.fill()
    with rig.quiet_kernel(*MEANT):
        for _ in range(3):
            failed = rig.run(f"dd if=/tmp/four of={node} bs=64k seek=512 oflag=direct", check=False)
            assert failed.exit_code != 0
            assert "No space left on device" in failed.stderr
            assert full_disk.alive
        # What was there before is there, and can be written again in place.
        rig.run(f"dd if={node} bs=64k count=64 iflag=direct | cmp - /tmp/four")
        rig.run(f"dd if=/tmp/four of={node} bs=64k oflag=direct")
        full_disk.free()
        rig.run(f"dd if=/tmp/four of={node} bs=64k seek=512 oflag=direct")
        rig.run(f"dd if={node} bs=64k skip=512 count=64 iflag=direct | cmp - /tmp/four")
        # A flush says nothing of what failed and was told.
        rig.run(f"nvme flush {node}")
    assert full_disk.alive
    assert "the storage behind namespace 1 is full" in full_disk.log
    assert "Traceback" not in full_disk.log
