"""A folder mounted over a folder: the disk below receives only the blocks that changed, and zeros
become holes.
"""

__version__ = "0.1.0"
