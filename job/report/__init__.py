"""report.html: what was picked, what was left, why, and where the detector struggles, in one file.

The file contains everything it shows, so it opens from a disk and from a bucket. For a large pool it shows a sample,
and says so. The same content gives the same bytes.
"""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from job.parts.score import LOW_CONFIDENCE
from job.report import colors, plots
from job.report.content import Content, Map

_SCRIPTS = ("gallery.js", "plots.js", "points.js", "map.js")
_MAP_DECIMALS = 4


def render(content: Content) -> bytes:
    """Renders the report as HTML; every text in it is escaped, so that no file name can become markup."""
    options: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    options |= {"trim_blocks": True, "lstrip_blocks": True}
    loader = jinja2.PackageLoader("job.report", "page")
    environment = jinja2.Environment(loader=loader, **options)  # noqa: S701 - it is on
    environment.filters["data"] = _to_script_data
    environment.filters["number"] = _format_number
    figures = plots.make_figures(content)
    page = resources.files("job.report").joinpath("page")
    own = "".join(page.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    # The files of the job and of Plotly, which hold no text of the user.
    has_plots = bool(figures) or content.map is not None
    scripts = [Markup(text) for text in ([plots.read_library()] if has_plots else []) + [own]]  # noqa: S704
    environment.globals |= {"palette": colors.PALETTE, "other_color": colors.OTHER, "low_confidence": LOW_CONFIDENCE}
    html = environment.get_template("report.html.jinja").render(
        content=content,
        figures=figures,
        class_colors={row.name: row.color for row in content.classes},
        map_data=_pack_map(content.map) if content.map else "",
        policy=_make_policy(scripts),
        scripts=scripts,
    )
    return html.encode()


def _pack_map(shown: Map) -> str:
    """Packs the points of the map as compressed JSON, in Base64: names and numbers take a fifth of their size."""
    x, y = shown.points.round(_MAP_DECIMALS).T.tolist()
    values = {
        "x": x,
        "y": y,
        "names": shown.file_names,
        "ranks": shown.ranks.tolist(),
        "labelled": np.flatnonzero(shown.is_labelled).tolist(),
        "colorings": [
            {
                "name": coloring.name,
                "values": [value if math.isfinite(value) else None for value in coloring.values.tolist()],
                "groups": coloring.groups,
            }
            for coloring in shown.colorings
        ],
    }
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


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
