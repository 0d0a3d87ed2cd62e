"""A page taken apart: elements with their attributes, visible text, and the rows of the main table."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "line", "circle", "path", "polygon", "polyline"}


def spaced(text: str) -> str:
    """Text with plain spaces for no-break ones: whether a line may break there is no part of the content."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    path: tuple[str, ...] = ()
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Page(HTMLParser):
    """Parses strictly enough for a test: every opened element must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.odd: list[str] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs), f"<{tag}> repeats an attribute"
        element = Element(tag, dict(attrs), path=tuple(parent.tag for parent in self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), path=tuple(parent.tag for parent in self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1].tag == tag, f"</{tag}> closes {self._open[-1].tag if self._open else None}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.pieces.append(data)

    def handle_comment(self, data: str) -> None:
        self.odd.append(f"comment {data!r}")

    def handle_decl(self, decl: str) -> None:
        if decl != "doctype html":
            self.odd.append(f"declaration {decl!r}")

    def handle_pi(self, data: str) -> None:
        self.odd.append(f"processing instruction {data!r}")

    def unknown_decl(self, data: str) -> None:
        self.odd.append(f"unknown declaration {data!r}")

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def text(self) -> str:
        """The text that a reader sees, without the style sheet."""
        return spaced(next(element for element in self.elements if element.tag == "body").text)

    def structure(self) -> list[tuple[str, tuple[str, ...], tuple[tuple[str, str | None], ...]]]:
        """Elements, where they stand, and their attributes; `alt` holds data, so only its presence counts."""
        return [
            (
                element.tag,
                element.path,
                tuple((key, None if key == "alt" else value) for key, value in element.attributes.items()),
            )
            for element in self.elements
        ]
