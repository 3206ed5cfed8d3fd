"""Faults under a running guest: a giving card or an SSD dies, hangs or is cut off, and comes back.

`python -m vhostnvme.testing.recovery --cycles 100 --seed 7` makes a lab of three cards with real
block devices that fail on command (`vhostnvme.testing.faulty_ssd`), boots a guest on a device with
two copies, and goes through cycles: the guest writes and checks all the time; a fault comes, stays
for a while and is healed; when all copies are in sync again the load ends, and both copies and what
the guest reads must be the same, by hash. Needs root, etcd or `--store sqlite`, and `unshare`.
"""
