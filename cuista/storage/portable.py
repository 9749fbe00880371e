"""Objects that are pickled, copied and sent to other processes as the bytes of their files."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

from cuista.storage.records import Record, packed, unpacked

AnyPortable = TypeVar("AnyPortable", bound="Portable")
# What error messages call bytes that are not in a file.
BYTES = "the bytes"


class Portable:
    """An object with a file of its own kind, whose bytes also stand for it where there is no file.

    A pickle of it holds its class and these bytes, which are checked before anything in them is believed.
    """

    kind: ClassVar[str]

    @abstractmethod
    def to_record(self) -> Record:
        """The whole object as the record of its file."""

    @classmethod
    @abstractmethod
    def from_record(cls: type[AnyPortable], record: Record, path: str | os.PathLike[str]) -> AnyPortable:
        """Make the object from the record of a file; error messages name `path`."""

    def to_bytes(self) -> bytes:
        """The bytes of the file that `save` writes."""
        return packed(self.to_record())

    @classmethod
    def from_bytes(cls: type[AnyPortable], data: bytes) -> AnyPortable:
        """Make the object from the bytes of its file.

        Raises
        ------
        FileError
            If they are the bytes of another kind of file, or are damaged.
        """
        return cls.from_record(unpacked(data, cls.kind, name=BYTES), BYTES)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)
