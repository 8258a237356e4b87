"""The FUSE boundary: the only place that imports pyfuse3 and trio."""

from mirrorfs.fuse import extension

extension.load()  # before pyfuse3, which the other modules here import
