"""The boundary to the operating system: trees and files by descriptor, holes, what a file system
can do, and what outlives a crash. Synchronous; no policy, no counters.
"""
