"""What the pipeline looks at in a chat completion's request, as msgspec decodes it: the outside, and what is media."""

from __future__ import annotations

import msgspec


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None


class ImageUrl(msgspec.Struct):
    """Where a picture is."""

    url: str | None = None


class File(msgspec.Struct):
    """A file by its id, where it has one."""

    file_id: str | None = None


class Part(msgspec.Struct):
    """One part of a message."""

    type: str | None = None
    image_url: ImageUrl | str | None = None
    file: File | None = None


class SeenMessage(msgspec.Struct):
    """One message."""

    content: str | list[Part] | None = None
    audio: msgspec.Raw = msgspec.Raw(b"null")


class SeenTool(msgspec.Struct):
    """One tool."""

    type: str = "function"


stream_options = msgspec.json.Decoder(StreamOptions | None)
seen_messages = msgspec.json.Decoder(list[SeenMessage])
seen_tools = msgspec.json.Decoder(list[SeenTool])
