"""A mount as a process: what is to be mounted, the main loop, background work, log and signals."""
