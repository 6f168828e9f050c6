"""The second form of records, which hold the encoded video: cutting, encoding, storing, reading."""
