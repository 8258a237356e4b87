"""The translation between the kernel and `fs`: the only place that knows pyfuse3, and the
structures of the kernel's messages.
"""

from mirrorfs.fuse import extension

extension.load()  # before pyfuse3, which the other modules here import
