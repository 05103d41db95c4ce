"""Which program is made: how far layers are unrolled, and which of them share a core, under what a part has."""
