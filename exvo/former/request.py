"""See `exvo.serving.request`."""

from exvo.serving.request import MAX_BODY, MODES, Payload, Row, check_body, decode, places, read_rows

__all__ = ["MAX_BODY", "MODES", "Payload", "Row", "check_body", "decode", "places", "read_rows"]
