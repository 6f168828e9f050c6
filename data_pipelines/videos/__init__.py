"""Decodes video files, in worker processes, so that a decoder's crash stops one video."""
