"""Commands: the flags of one function each, a call of it, and what is printed of its result.

What a command needs beyond its flags it imports when it runs: help and mistakes are told at once.
"""
