"""The FUSE boundary: the only place that imports pyfuse3 and trio."""
