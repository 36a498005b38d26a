"""Changing bytes at random: what a broken disk, a cut download or somebody's malice might make of a file."""

import random
import struct
import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO

# Sizes that overflow, go negative, or claim 10^9 pixels.
NUMBERS = (
    0,
    1,
    2,
    7,
    255,
    256,
    4096,
    31623,
    32767,
    65500,
    65535,
    10**9,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)
TEXTS = (
    *(
        b'{',
        b'}',
        b'[',
        b']',
        b'"',
        b':',
        b',',
        b'-',
        b'.',
        b'\n',
        b'\0',
        b' ',
        b'NaN',
        b'Infinity',
        b'1e999',
    ),
    *(
        b'-1',
        b'0',
        b'null',
        b'true',
        b'"\\ud800"',
        b'../',
        b'/',
        b'\\',
        b'/etc/passwd',
        b'file://',
        b'[[',
        b'{}',
    ),
)


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Return ``data`` with one to six changes, mostly one or two.

    Args:
        data: whole bytes.
        rng: what chooses.
        others: whole bytes to take pieces of.
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        place = rng.randint(0, len(changed))
        kind = rng.randrange(10)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(changed):
            changed[place] = rng.randrange(256)
        elif kind == 2:
            number = rng.choice(NUMBERS)
            width = rng.choice((1, 2, 4, 8))
            piece = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(('little', 'big')))
            changed[place : place + width] = piece
        elif kind == 3:
            changed[place:place] = rng.randbytes(rng.randint(1, 16))
        elif kind == 4:
            del changed[place : place + rng.randint(1, 40)]
        elif kind == 5:
            start = rng.randint(0, len(changed))
            changed[place:place] = changed[start : start + rng.randint(1, 60)]
        elif kind == 6:
            # To its end only now and then, for what is cut is refused without a look at the rest.
            if rng.random() < 0.3:
                del changed[place:]
        elif kind == 7:
            changed[place : place + rng.choice((0, 1, 4))] = rng.choice(TEXTS)
        elif kind == 8:
            other = rng.choice(others)
            start = rng.randint(0, len(other))
            piece = other[start : start + rng.randint(1, 80)]
            changed[place : place + rng.choice((0, len(piece)))] = piece
        else:
            changed[place : place + rng.randint(1, 12)] = bytes(rng.randint(1, 12))
    return bytes(changed[: 4 * len(data) + 4096])


def mend_png(data: bytes) -> bytes:
    """Make the checksums of a png true again: else hardly a change gets past them."""
    changed, place = bytearray(data), 8
    while place + 12 <= len(changed):
        (length,) = struct.unpack('>I', changed[place : place + 4])
        end = place + 12 + length
        if end > len(changed):
            break
        changed[end - 4 : end] = struct.pack('>I', zlib.crc32(bytes(changed[place + 4 : end - 4])))
        place = end
    return bytes(changed)


def change_member(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Change one member of a zip file and pack it again, its checksum true: past zip's own guards."""
    packed = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(packed, 'w') as new:
        members = old.infolist()
        chosen = rng.choice(members)
        for member in members:
            content = old.read(member)
            if member is chosen:
                content = mutate(content, rng, [content, *others])
            new.writestr(member.filename, content, compress_type=member.compress_type)
    return packed.getvalue()
