"""What a sweep or an evaluation found, to be looked at: a page, its table as CSV, plots as PNG."""

from .documents import write_documents
from .pictures import Sprites, make_sprites
from .records import Record, Row, read_record

__all__ = ["Record", "Row", "Sprites", "make_sprites", "read_record", "write_documents"]
