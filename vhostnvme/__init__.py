"""vhostnvme: an NVMe SSD for a VM, from a program.

Python holds what is wanted and asks the C library for what is; no guest's I/O passes through here.
"""

__version__ = "0.1.0"
