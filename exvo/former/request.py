"""What a request may hold, under the names of models that MLflow logged before; see `exvo.serving.request`."""

from exvo.serving.decoding import decode_clips as decode
from exvo.serving.request import MAX_BODY, MODES, Payload, Row, check_body, read_rows
from exvo.serving.request import distinct_clips as places

__all__ = ["MAX_BODY", "MODES", "Payload", "Row", "check_body", "decode", "places", "read_rows"]
