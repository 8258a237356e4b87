"""The heart: what is to be done with these bytes at this offset? Synchronous, thread-safe, testable
without a mount.

    plan, seed_rules                        decisions, pure
    open_file, writeback, stale_tail        state: of an open file, of its inode, of old blocks
    writer, copy_range, discard, truncate,  operations of clients, by any thread; each takes
    sync                                    the lock of the open file
    short_path                              writes that need one decision for all their blocks
    view                                    what clients see, without a lock
    seeding, advancing, finalising          a stale tail's begin, life and end, under that lock
    progress, recovery                      where a crash leaves a stale tail, and how it is found
    counters, tally                         what became of every byte, and in which session
    chunk_digests, sample, digest_stream    digests of a file's chunks, and how they are sent
    digesting                               reads a file or a folder for them

Lock order: open files, in ascending order of device and inode; the recovery list; the account.
"""
