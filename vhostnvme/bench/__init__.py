"""Benchmarks: this program beside QEMU's own devices, in one guest, in one run. Ratios count."""
