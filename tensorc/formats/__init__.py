"""Number formats behind one interface, for weights and caches.

    encoded = find_format("int4-g32").quantize(weights, axis=0)
    encoded.nbytes, encoded.dequantize(), find_format("mxfp4").error(weights, axis=0).snr_db

Formats are numpy only. What they cost at run time is not known here.
"""

from tensorc.formats.base import SHAPE, Encoded, Format, Parts
from tensorc.formats.measures import Error, measure
from tensorc.formats.names import LISTED, find_format, listed_formats

__all__ = ["LISTED", "SHAPE", "Encoded", "Error", "Format", "Parts", "find_format", "listed_formats", "measure"]
