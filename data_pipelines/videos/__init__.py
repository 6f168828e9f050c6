"""Video files: finding them, decoding them, in processes that survive a decoder's crash."""
