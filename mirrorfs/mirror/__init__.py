"""The heart: what is to be done with these bytes at this offset? Synchronous, thread-safe, testable
without a mount.
"""
