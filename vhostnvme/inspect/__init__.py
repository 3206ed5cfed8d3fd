"""Asks controllers what they are: identify and discovery, over vfio-user and over NVMe/TCP.

What they answer is not trusted: lengths are bounded, and text is shown without control characters.
"""
