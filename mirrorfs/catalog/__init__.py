"""The catalog: what is remembered between mounts. Synchronous, and never needed for correctness: it
may be deleted at any time while nothing is mounted, and then only the memory is lost.
"""
