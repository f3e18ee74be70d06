"""XML that every parser reads back unchanged."""

import re
import xml.etree.ElementTree as ET

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def can_represent(*texts: str) -> bool:
    """Whether XML can represent these texts; it cannot represent most control characters."""
    return not any(_FORBIDDEN.search(text) for text in texts)


def replace_forbidden(text: str) -> str:
    """Replaces each character that XML cannot represent by U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text)


def add_child(parent: ET.Element, tag: str, text: object = "") -> ET.Element:
    """Adds an element with a text, and returns the element."""
    element = ET.SubElement(parent, tag)
    element.text = str(text)
    return element


def serialize(root: ET.Element) -> bytes:
    """Renders a whole file without an XML declaration: Label Studio rejects a configuration that has one."""
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode").encode()
    # ElementTree writes carriage returns unescaped, and parsers read those as line feeds.
    return text.replace(b"\r", b"&#13;") + b"\n"
