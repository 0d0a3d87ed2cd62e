"""Text from outside made safe to show: data, never markup and never a command to the terminal."""


def printable(text: str) -> str:
    """Make control characters, escape sequences and direction overrides visible; line breaks stay."""
    return "\n".join("".join(c if c.isprintable() else _escape(c) for c in line) for line in text.split("\n"))


def one_line(text: object) -> str:
    """The same for a name: a line break in it becomes visible too."""
    return "".join(c if c.isprintable() else _escape(c) for c in str(text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
