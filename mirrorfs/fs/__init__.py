"""The file system as its clients see it: names, files, attributes, and the tables behind them.
Handlers take plain values and raise OSError; they know neither pyfuse3 nor the kernel's messages.
"""
