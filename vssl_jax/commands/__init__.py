"""Commands: each parses the flags of one function, calls it, and prints its result.

A command imports what it needs only when it runs, so that help and errors appear at once.
"""
