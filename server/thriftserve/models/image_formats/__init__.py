"""Image files of the formats that the server reads, and what each of their kinds holds.

A reader takes the meaning of samples from the file itself: bits, sign, polarity, palette, alpha. It refuses by name
(UnreadableKind) what has no one right reading, and damaged files with a ValueError. Nothing is decoded before `load`.
"""
