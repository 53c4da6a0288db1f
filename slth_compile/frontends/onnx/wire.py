"""How many fields a protocol buffer holds, counted before it is parsed.

A parsed message takes up to a hundred times the bytes of an empty one on the wire, so a file of a few megabytes can ask
for gigabytes. Lists of numbers, strings and blocks of bytes count as one field each: they stay about as large as in
the file.
"""

from __future__ import annotations

from typing import Any


def count_fields(data: bytes, descriptor: Any, at_most: int, deepest: int) -> int:
    """The number of fields in a message and all messages inside it.

    Args:
        data: The message as bytes.
        descriptor: Its type, a protobuf message descriptor.
        at_most: Counting stops above this number.
        deepest: Messages may be nested this deep.

    Raises:
        ValueError: The bytes end within a field, a field has an unknown wire type, or messages are nested deeper.
    """
    count = 0
    waiting: list[tuple[int, int, Any, int]] = [(0, len(data), descriptor, 0)]
    while waiting:
        place, end, kind, depth = waiting.pop()
        if depth > deepest:
            raise ValueError(f"messages are nested more than {deepest} deep")
        messages = {number: field.message_type for number, field in kind.fields_by_number.items()}
        while place < end:
            count += 1
            if count > at_most:
                return count
            tag, place = _varint(data, place, end)
            match tag & 7:
                case 0:
                    _, place = _varint(data, place, end)
                case 1:
                    place += 8
                case 5:
                    place += 4
                case 2:
                    length, place = _varint(data, place, end)
                    inner = messages.get(tag >> 3)
                    if inner is not None and place + length <= end:
                        waiting.append((place, place + length, inner, depth + 1))
                    place += length
                case other:
                    raise ValueError(f"unknown wire type {other}")
            if place > end:
                raise ValueError("the file ends within a field")
    return count


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("the file ends within a number")
