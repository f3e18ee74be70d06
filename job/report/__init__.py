"""report.html: what was picked, what was left, why, and where the detector struggles, in one file.

It holds everything it shows, so it opens from a disk and from a bucket. Of a large pool, what is shown is a sample, and
says so.
"""

import json
from typing import Any

import jinja2
from markupsafe import Markup

from job.parts.score import LOW_CONFIDENCE
from job.report import plots
from job.report.content import Content

NAME = "report.html"


def render(content: Content) -> bytes:
    """The report as HTML; every text in it is escaped, whatever the files are called."""
    options: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    options |= {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=jinja2.PackageLoader("job.report", ""), **options)  # noqa: S701 - it is on
    environment.filters["data"] = _data
    environment.filters["number"] = _number
    shown = content.map
    hovers = {"names": shown.names, "thumbnails": shown.thumbnails} if shown else {}
    page = environment.get_template("report.html.jinja").render(
        content=content, figures=plots.figures(content), hovers=hovers, plotly=plots.library(), faint=LOW_CONFIDENCE
    )
    return page.encode()


def _data(value: Any) -> Markup:
    """JSON for a script element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for each in "<>&\u2028\u2029":
        text = text.replace(each, f"\\u{ord(each):04x}")
    return Markup(text)  # noqa: S704 - nothing in it is HTML any more


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
