"""Guests: where QEMU, the kernel and the image come from, and how a guest is started and used.

Kept free of imports, so that the parts that need only the standard library run before anything is installed.
"""
