"""What a sample must hold, and how one is read from its shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tenfold.shards.decoding import DecodeLimits, Decoder, decode, default_decoders, find_decoder
from tenfold.shards.members import TarMembers
from tenfold.shards.names import ShardError

Fields = Sequence[str] | Mapping[str, Sequence[str]]


class BadSampleError(ShardError):
    """One sample cannot be used; `member` names its file in the tar where there is one."""

    def __init__(self, reason: str, *, member: str | None = None) -> None:
        super().__init__(f"member {member!r}: {reason}" if member else reason)
        self.member = member
        self.reason = reason


class UnwantedSampleError(BadSampleError):
    """One sample is sound but not asked for: it is replaced as a bad one is, and not noted."""


@dataclass(frozen=True)
class SampleSchema:
    """The members of a sample that are wanted, and how they are decoded.

    Attributes:
        required: Extensions every sample must have, `("jpg", "txt")`; or field names with the
            extensions that may fill them, `{"image": ("jpg", "png", "webp"), "text": ("txt",)}`.
        optional: Likewise; taken where present.
        ignored: Extensions outside the decoder table that may lie beside them unread. Any other
            such extension makes the sample bad.
        decoders: Added to, or replacing entries of, `default_decoders(limits)`.
        limits: Bounds on what is decoded.
    """

    required: Fields
    optional: Fields = ()
    ignored: tuple[str, ...] = ()
    decoders: Mapping[str, Decoder] = field(default_factory=dict)
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    _table: dict[str, Decoder] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.required:
            raise ValueError("required must name at least one extension")
        if isinstance(self.required, str) or isinstance(self.optional, str):
            raise ValueError(f"required and optional must be sequences, got {self.required!r}")
        table = {**default_decoders(self.limits), **self.decoders}
        object.__setattr__(self, "_table", table)
        for extensions in (*_fields(self.required).values(), *_fields(self.optional).values()):
            for extension in extensions:
                find_decoder(extension, table)

    def read(self, members: TarMembers, key: str) -> dict[str, Any]:
        """Read and decode one sample.

        Raises:
            BadSampleError: A required member is missing, a member is of a kind that is not read,
                too large, or does not decode.
        """
        if key in members.bad:
            member, reason = members.bad[key]
            raise BadSampleError(reason, member=member)
        present = members.extensions(key)
        self._refuse_unknown(key, present)
        sample: dict[str, Any] = {"__key__": key}
        for name, choices in _fields(self.required).items():
            found = next((choice for choice in choices if choice in present), None)
            if found is None:
                missing, has = " or ".join(map(repr, choices)), ", ".join(present)
                raise BadSampleError(f"required {missing} is missing, has {has}")
            sample[name] = self._decode(members, key, found)
        for name, choices in _fields(self.optional).items():
            found = next((choice for choice in choices if choice in present), None)
            if found is not None:
                sample[name] = self._decode(members, key, found)
        return sample

    def _decode(self, members: TarMembers, key: str, extension: str) -> Any:
        return decode_member(
            members, key, extension, decoders=self._table, max_bytes=self.limits.max_bytes
        )

    def _refuse_unknown(self, key: str, present: Sequence[str]) -> None:
        for extension in present:
            if extension in self.ignored:
                continue
            try:
                find_decoder(extension, self._table)
            except ShardError as error:
                raise BadSampleError(
                    f"{error}; list it in `ignored` to leave it unread", member=f"{key}.{extension}"
                ) from error


def decode_member(
    members: TarMembers,
    key: str,
    extension: str,
    *,
    decoders: Mapping[str, Decoder],
    max_bytes: int,
) -> Any:
    """Decode one member, its size checked before it is read.

    Raises:
        BadSampleError: It is too large, of a kind that is not read, or does not decode.
    """
    size = members.size(key, extension)
    try:
        if size > max_bytes:
            raise ShardError(f"{size} bytes are over the limit of {max_bytes}")
        find_decoder(extension, decoders)
        return decode(extension, members.read(key, extension), decoders)
    except ShardError as error:
        raise BadSampleError(str(error), member=f"{key}.{extension}") from error


def _fields(fields: Fields) -> Mapping[str, Sequence[str]]:
    if isinstance(fields, Mapping):
        return fields
    return {extension: (extension,) for extension in fields}
