"""The files of prepared data: SequenceExamples in TFRecords, their index, manifest, fingerprint."""
