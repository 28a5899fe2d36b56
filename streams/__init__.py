"""The computing of streams: reading, decoding, watermarks, windows, running, testing.

The unit of work is a batch of one topic partition: a source hands over a whole poll, the
decoder turns it into a frame at once, and a step keeps its state per partition.
"""
