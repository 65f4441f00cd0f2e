"""The directory of a zip archive of weights: where each stored member lies, strictly checked.

Weight archives are written with their members uncompressed, so an array is a slice of the file and
nothing is ever decompressed. Anything cleverer is refused: members that overlap, names that leave
the archive, names that occur twice, encryption and several disks. The layout is PKWARE's
APPNOTE 6.3, sections 4.3 and 4.5.
"""

import dataclasses
import struct

from .weight_file import DOWNLOAD, RESAVE, OpenFile

END = b"PK\x05\x06"
END64 = b"PK\x06\x06"
LOCATOR64 = b"PK\x06\x07"
CENTRAL = b"PK\x01\x02"
LOCAL = b"PK\x03\x04"
LONGEST_COMMENT = 0xFFFF
LARGEST_DIRECTORY = 64 << 20
MOST_MEMBERS = 200_000
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED = 1
WIDE = 1  # the extra field with 64-bit sizes


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive: its bytes, as stored, lie in ``[start, start + size)``."""

    name: str
    start: int
    size: int
    checksum: int
    compressed: bool


def read_directory(opened: OpenFile) -> dict[str, Member]:
    """Return the members of an archive by name.

    Raises:
        UserError: truncated, damaged, or with members that weight files do not have.
    """
    count, size, start = _end(opened)
    if count > MOST_MEMBERS or size > LARGEST_DIRECTORY:
        raise opened.file.refused(f"has a directory of {count} members in {size} bytes", RESAVE)
    table = opened.read_at(start, size)
    members: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        member, at = _central(opened, table, at)
        if member.name in members:
            raise opened.file.refused(f"has two members named {_shown(member.name)}", RESAVE)
        members[member.name] = member
    _require_apart(opened, members, start)
    return members


def _end(opened: OpenFile) -> tuple[int, int, int]:
    """Return number of members, size and start of the directory."""
    file = opened.file
    tail_start = max(0, file.size - LONGEST_COMMENT - 22)
    tail = opened.read_at(tail_start, file.size - tail_start)
    found = tail.rfind(END, 0, len(tail) - 18)
    if found < 0:
        raise file.refused("is a zip archive without its end: it is cut short", DOWNLOAD)
    disks, count, size, start, comment = struct.unpack_from("<4x4s2xHIIH", tail, found)
    if disks != b"\0\0\0\0":
        raise file.refused("is one part of a zip archive on several disks", DOWNLOAD)
    if found + 22 + comment != len(tail):
        raise file.refused("has bytes behind its end that do not belong to it", DOWNLOAD)
    if count != FULL16 and FULL32 not in (size, start):
        return count, size, start
    locator = tail_start + found - 20
    signature, end64 = struct.unpack("<4s4xQ4x", opened.read_at(max(locator, 0), 20))
    if signature != LOCATOR64:
        return count, size, start
    signature, count, size, start = struct.unpack("<4s28xQQQ", opened.read_at(end64, 56))
    if signature != END64:
        raise file.refused("is a zip archive whose end is damaged", DOWNLOAD)
    return count, size, start


def _central(opened: OpenFile, table: bytes, at: int) -> tuple[Member, int]:
    """Read one entry of the directory and return it with the place of the next."""
    file = opened.file
    if len(table) - at < 46 or table[at : at + 4] != CENTRAL:
        raise file.refused("is a zip archive with a damaged directory", DOWNLOAD)
    flags, method, checksum, packed, size, name_size, extra_size, comment_size, disk, local = (
        struct.unpack_from("<8xHH4xIIIHHHH6xI", table, at)
    )
    names = at + 46
    following = names + name_size + extra_size + comment_size
    if following > len(table):
        raise file.refused("is a zip archive with a damaged directory", DOWNLOAD)
    try:
        name = table[names : names + name_size].decode()
    except UnicodeDecodeError as error:
        raise file.refused("has a member whose name is not UTF-8", RESAVE) from error
    extra = table[names + name_size : names + name_size + extra_size]
    size, packed, local = _widened(opened, extra, size, packed, local)
    _require_plain_name(opened, name)
    if flags & ENCRYPTED:
        raise file.refused(f"has an encrypted member {_shown(name)}", RESAVE)
    if not method and packed != size:
        raise file.refused(f"has two sizes for {_shown(name)}", DOWNLOAD)
    if disk not in (0, FULL16):
        raise file.refused("is one part of a zip archive on several disks", DOWNLOAD)
    start = _data_start(opened, name, local)
    return Member(name, start, packed, checksum, compressed=method != 0), following


def _widened(
    opened: OpenFile, extra: bytes, size: int, packed: int, local: int
) -> tuple[int, int, int]:
    """Return sizes and place, read from the extra field where they do not fit 32 bits."""
    numbers = [size, packed, local]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        content = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind != WIDE:
            continue
        for index, number in enumerate(numbers):
            if number == FULL32:
                if len(content) < 8:
                    raise opened.file.refused("is a zip archive with a damaged entry", DOWNLOAD)
                numbers[index], content = int.from_bytes(content[:8], "little"), content[8:]
        break
    return numbers[0], numbers[1], numbers[2]


def _require_plain_name(opened: OpenFile, name: str) -> None:
    parts = name.split("/")
    if (
        not name
        or ".." in parts
        or parts[0] == ""
        or "\\" in name
        or "\0" in name
        or parts[0].endswith(":")
    ):
        raise opened.file.refused(
            f"has a member named {_shown(name)}, which points outside the archive", RESAVE
        )


def _data_start(opened: OpenFile, name: str, local: int) -> int:
    """Return where a member's bytes begin: behind its local header."""
    header = opened.read_at(local, 30)
    signature, name_size, extra_size = struct.unpack("<4s22xHH", header)
    raw = name.encode()
    if (signature, name_size) != (LOCAL, len(raw)) or opened.read_at(local + 30, len(raw)) != raw:
        raise opened.file.refused(
            f"is damaged: {_shown(name)} is not where the directory says", DOWNLOAD
        )
    return local + 30 + name_size + extra_size


def _require_apart(opened: OpenFile, members: dict[str, Member], directory: int) -> None:
    end, before = 0, ""
    for member in sorted(members.values(), key=lambda member: member.start):
        if member.start + member.size > directory:
            raise opened.truncated(member.start + member.size)
        if member.size and member.start < end:
            raise opened.file.refused(
                f"has members that overlap: {_shown(before)} and {_shown(member.name)}", RESAVE
            )
        if member.size:
            end, before = member.start + member.size, member.name


def _shown(name: str) -> str:
    return ascii(name[:200])
