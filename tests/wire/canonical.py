"""Canonical requests and replies for property tests, and golden files as sections of text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st

from mainstay.core.event import (
    End,
    Event,
    Finish,
    Frame,
    Opaque,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.request import (
    Audio,
    Document,
    Image,
    Message,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from mainstay.core.usage import clamped

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,10}", fullmatch=True)
ids = st.from_regex(r"[a-zA-Z0-9_.:-]{1,20}", fullmatch=True)
base64 = st.sampled_from(["aGVsbG8=", "AAAA", "iVBORw0K"])
schemas = st.sampled_from(
    [{"type": "object"}, {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}]
)
arguments = st.sampled_from(["{}", '{"a":1}', '{"b":{"c":[1,2.5,null]},"a":"ü\\n"}', '{"big":123456789012345678901}'])


def contents(image_urls: st.SearchStrategy[str]) -> st.SearchStrategy[Text | Image | Document | Audio]:
    """What a user may say, with pictures at addresses that the format can take."""
    return st.one_of(
        texts.map(Text),
        base64.map(lambda data: Image(data=data, media_type="image/png")),
        image_urls.map(lambda url: Image(url=url, media_type="image/jpeg")),
        base64.map(lambda data: Document(data=data, media_type="application/pdf")),
        st.sampled_from(["wav", "mp3"]).map(lambda form: Audio("AAAA", form)),
    )


@st.composite
def conversations(
    draw: st.DrawFn, said: st.SearchStrategy[Text | Image | Document | Audio], thoughts: st.SearchStrategy[Thinking]
) -> tuple[Message, ...]:
    """Turns that alternate, with tools called and answered; the user speaks first and last."""
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message("system", tuple(draw(st.lists(texts.map(Text), min_size=1, max_size=2)))))
    used: set[str] = set()
    for _ in range(draw(st.integers(0, 3))):
        messages.append(Message("user", tuple(draw(st.lists(said, min_size=1, max_size=3)))))
        fresh = [one for one in draw(st.lists(ids, max_size=3, unique=True)) if one not in used]
        calls = [ToolCall(one, draw(names), draw(arguments)) for one in fresh]
        used |= {call.id for call in calls}
        thinking = [draw(thoughts)] if draw(st.booleans()) else []
        speech = [Text(draw(texts))] if not calls or draw(st.booleans()) else []
        messages.append(Message("assistant", (*thinking, *speech, *calls)))
        for call in calls:
            content = tuple(draw(st.lists(texts.map(Text), max_size=2)))
            messages.append(Message("tool", (ToolResult(call.id, content, draw(st.booleans()), call.name),)))
        if calls:
            messages.append(Message("assistant", (Text(draw(texts)),)))
    messages.append(Message("user", (Text(draw(texts)),)))
    return tuple(messages)


@st.composite
def toolboxes(draw: st.DrawFn, strict: bool) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """Tools, and which of them must be called."""
    tools = tuple(
        Tool(name, draw(st.none() | texts), draw(schemas), draw(st.none() | st.booleans()) if strict else None)
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    )
    choice = draw(st.none() | st.sampled_from(["auto", "required", "named"]))
    if choice == "named":
        return tools, ToolChoice("named", draw(st.sampled_from(tools)).name)
    return tools, ToolChoice(choice) if choice else None


usages = st.builds(
    clamped,
    input=st.integers(0, 10**6),
    output=st.integers(0, 10**6),
    cached_input=st.integers(0, 10**5),
)


@st.composite
def replies(draw: st.DrawFn, signature: str) -> tuple[Event, ...]:
    """One reply in its canonical order: reasoning that ends with a signature, text, tool calls, the end."""
    events: list[Event] = [Start(draw(ids), draw(names))]
    if draw(st.booleans()):
        events += [ThinkingDelta(text) for text in draw(st.lists(texts, min_size=1, max_size=3))]
        events.append(ThinkingSigned(signature))
    events += [TextDelta(text) for text in draw(st.lists(texts, max_size=4))]
    calls = draw(st.lists(ids, max_size=3, unique=True))
    for number, one in enumerate(calls):
        said = draw(arguments)
        cut = draw(st.integers(0, len(said)))
        events.append(ToolStart(number, one, draw(names)))
        events += [ToolDelta(number, piece) for piece in (said[:cut], said[cut:]) if piece]
    if calls:
        events.append(Finish("tool_calls"))
    else:
        events.append(Finish(draw(st.sampled_from(["stop", "length", "content_filter"]))))
    return (*events, UsageSeen(draw(usages)), End())


def folded(events: Iterable[Event]) -> list[Event]:
    """The events without what may differ on the way: how texts were cut, the provider's word, repeated usage."""
    found: list[Event] = []
    usage: UsageSeen | None = None
    events = sorted(events, key=lambda event: -1 if isinstance(event, Start) else getattr(event, "choice", 99))
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Opaque) or (isinstance(event, TextDelta | ThinkingDelta) and not event.text):
            continue
        if isinstance(event, UsageSeen):
            usage = event
        elif isinstance(event, TextDelta) and isinstance(last, TextDelta) and event.choice == last.choice:
            found[-1] = TextDelta(last.text + event.text, last.choice)
        elif isinstance(event, ThinkingDelta) and isinstance(last, ThinkingDelta):
            found[-1] = ThinkingDelta(last.text + event.text, last.choice)
        elif isinstance(event, ToolDelta) and isinstance(last, ToolDelta):
            found[-1] = ToolDelta(last.tool, last.arguments + event.arguments, last.choice)
        elif isinstance(event, Finish):
            found.append(event._replace(native=None))
        else:
            found.append(event)
    return [*found, *([usage] if usage else [])]


def cuts(data: bytes, places: Iterable[int]) -> list[bytes]:
    """``data`` cut at ``places``."""
    at = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(at)]


def lines(frames: Iterable[Frame]) -> str:
    """The events of frames, one a line."""
    said = ["unread" if frame.unread else repr(event) for frame in frames for event in frame.events or (None,)]
    return "\n".join(line for line in said if line != "None")


def sections(path: Path) -> dict[str, str]:
    """A golden file: its caption and its sections."""
    caption, *parts = path.read_text().split("\n== ")
    found = {"caption": caption}
    for part in parts:
        name, _, body = part.partition("\n")
        found[name] = body.strip("\n")
    return found


def agree(path: Path, seen: Mapping[str, str]) -> None:
    """Compare ``seen`` with the golden file, or write it anew where ``MAINSTAY_GOLDEN=write`` is set."""
    if os.environ.get("MAINSTAY_GOLDEN") == "write":
        caption = path.read_text().split("\n== ")[0] if path.exists() else f"# {path.stem}"
        parts = "\n".join(f"\n== {name}\n{body.strip(chr(10))}" for name, body in seen.items())
        path.write_text(f"{caption}{parts}\n")
    said = sections(path)
    said.pop("caption")
    assert said == {name: body.strip("\n") for name, body in seen.items()}
