"""The commands, one file each. The only place that prints; what is heavy is imported when it is
needed.
"""
