"""The boundary to the operating system: trees and files by descriptor, holes, and what a file
system can do.
"""
