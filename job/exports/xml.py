"""XML that every parser reads back as it was."""

import re
import xml.etree.ElementTree as ET

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def can_hold(*texts: str) -> bool:
    """Whether XML has a way to write these: most control characters it has none for."""
    return not any(_FORBIDDEN.search(each) for each in texts)


def held(text: str) -> str:
    """A text with U+FFFD for what XML cannot hold."""
    return _FORBIDDEN.sub("\ufffd", text)


def child(parent: ET.Element, tag: str, text: object = "") -> ET.Element:
    """Adds an element with a text, and returns it."""
    element = ET.SubElement(parent, tag)
    element.text = str(text)
    return element


def document(root: ET.Element) -> bytes:
    """A whole file; without a declaration, since Label Studio takes a configuration that has one for broken."""
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode").encode()
    # ElementTree leaves them in texts as they are, where parsers take them for line feeds.
    return text.replace(b"\r", b"&#13;") + b"\n"
