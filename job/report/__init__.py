"""report.html: what was picked, what was left, why, and where the detector struggles, in one file.

The file contains everything it shows, so it opens from a disk and from a bucket. For a large pool it shows a sample,
and says so.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from job.parts.score import LOW_CONFIDENCE
from job.report import plots
from job.report.content import Content


def render(content: Content) -> bytes:
    """Renders the report as HTML; every text in it is escaped, so that no file name can become markup."""
    options: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    options |= {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=jinja2.PackageLoader("job.report", ""), **options)  # noqa: S701 - it is on
    environment.filters["data"] = _to_script_data
    environment.filters["number"] = _format_number
    figures = plots.make_figures(content)
    script = resources.files("job.report").joinpath("report.js").read_text(encoding="utf-8")
    # The files of the job and of Plotly, which hold no text of the user.
    scripts = [Markup(text) for text in ([plots.read_library()] if figures else []) + [script]]  # noqa: S704
    hovers = {"names": content.map.file_names, "thumbnails": content.map.thumbnails} if content.map else {}
    page = environment.get_template("report.html.jinja").render(
        content=content,
        figures=figures,
        hovers=hovers,
        policy=_make_policy(scripts),
        scripts=scripts,
        low_confidence=LOW_CONFIDENCE,
    )
    return page.encode()


def _make_policy(scripts: Sequence[str]) -> str:
    """Makes a policy under which a browser runs these scripts alone, and loads nothing from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {sources}"


def _to_script_data(value: Any) -> Markup:
    """Converts a value to JSON for a script element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no character of markup is left in it


def _format_number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
