"""The plots of the report, as the JSON of Plotly; a colour that begins with two hyphens is one of the style sheet."""

from collections.abc import Sequence
from typing import Any

import plotly.offline

from job.report.content import ClassRow, Content, Curve, Histogram, Timeline

_POOL, _PICKS = "--soft", "--accent"
_MAX_CLASSES = 20


def read_library() -> str:
    """Reads Plotly's JavaScript."""
    return str(plotly.offline.get_plotlyjs())


def make_figures(content: Content) -> dict[str, Any]:
    """Makes the plots, by name; the page shows each in the element "plot-" + name.

    The map is drawn by the page itself, since its colours change.
    """
    figures: dict[str, Any] = {}
    if content.lead.curve is not None:
        figures["curve"] = _plot_curve(content.lead.curve)
    if content.classes:
        figures["classes"] = _plot_classes(content.classes)
    for number, timeline in enumerate(content.timelines):
        figures[f"timeline-{number}"] = _plot_timeline(timeline)
    for number, histogram in enumerate(content.histograms):
        figures[f"histogram-{number}"] = _plot_histogram(histogram)
    return figures


def _plot_curve(curve: Curve) -> dict[str, Any]:
    lines = [
        ("random images", curve.of_random, {"color": _POOL, "width": 3, "dash": "dash"}),
        ("picks", curve.of_picks, {"color": _PICKS, "width": 3}),
    ]
    data = [
        {"type": "scatter", "mode": "lines", "x": curve.numbers, "y": values, "name": name, "line": line}
        for name, values, line in lines
    ]
    here = {"type": "line", "x0": curve.num_picks, "x1": curve.num_picks, "yref": "paper", "y0": 0, "y1": 1}
    layout = _layout(240) | {
        "legend": {"orientation": "h", "y": 1.16},
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "images"}, "rangemode": "tozero", "automargin": True},
        "yaxis": {"tickformat": ".0%", "rangemode": "tozero", "automargin": True},
        "shapes": [here | {"line": {"width": 2, "dash": "dot", "color": _PICKS}}],
    }
    return {"data": data, "layout": layout}


def _plot_timeline(timeline: Timeline) -> dict[str, Any]:
    places, values, ranks = ([pick[part] for pick in timeline.picks] for part in range(3))
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": timeline.places,
            "y": timeline.values,
            "name": "score",
            "line": {"color": _POOL, "width": 1.5},
            "hovertemplate": "image %{x}: %{y:.3g}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": places,
            "y": values,
            "customdata": ranks,
            "name": "picks",
            "text": [str(rank) for rank in ranks],
            "textfont": {"size": 10, "color": "--back"},
            "marker": {"size": 19, "color": _PICKS, "line": {"width": 1.5, "color": "--back"}},
            "hovertemplate": "pick %{text}: %{y:.3g}<extra></extra>",
        },
    ]
    if timeline.cuts:
        data.insert(0, _draw_cuts(timeline))
    layout = _layout(150) | {
        "showlegend": bool(timeline.cuts),
        "legend": {"orientation": "h", "y": 1.3},
        "margin": {"l": 40, "r": 12, "t": 12, "b": 24},
        "xaxis": {"zeroline": False, "range": [-0.02 * timeline.num_images, 1.02 * timeline.num_images]},
        "yaxis": {"rangemode": "tozero", "nticks": 4},
    }
    return {"data": data, "layout": layout}


def _draw_cuts(timeline: Timeline) -> dict[str, Any]:
    """Vertical lines as one trace, which has a legend: pairs of points with a gap after each."""
    top = max(timeline.values)
    places, heights = zip(
        *(point for cut in timeline.cuts for point in ((cut, 0), (cut, top), (None, None))), strict=True
    )
    return {
        "type": "scatter",
        "mode": "lines",
        "x": places,
        "y": heights,
        "name": "cuts",
        "line": {"color": "--text", "width": 1, "dash": "dot"},
        "hovertemplate": "cut before image %{x}<extra></extra>",
    }


def _plot_histogram(histogram: Histogram) -> dict[str, Any]:
    middles = [(low + high) / 2 for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)]
    layout = _layout(170) | {
        "barmode": "group",
        "bargap": 0.05,
        "showlegend": False,
        "margin": {"l": 40, "r": 8, "t": 4, "b": 24},
        "xaxis": {"nticks": 6},
        "yaxis": {"tickformat": ".0%", "nticks": 4},
    }
    return {"data": _make_bars(middles, histogram.pool, histogram.picks, "%{y:.1%} at %{x:.3g}"), "layout": layout}


def _plot_classes(classes: Sequence[ClassRow]) -> dict[str, Any]:
    rows = classes[:_MAX_CLASSES]
    total = sum(row.boxes for row in classes)
    names, pool = [row.name for row in rows], [row.boxes / total for row in rows]
    layout = _layout(300) | {
        "barmode": "group",
        "legend": {"orientation": "h", "y": 1.12},
        "xaxis": {"automargin": True},
        "yaxis": {"title": {"text": "share of boxes"}, "tickformat": ".0%", "automargin": True},
    }
    return {"data": _make_bars(names, pool, [row.share_picked for row in rows], "%{x}: %{y:.1%}"), "layout": layout}


def _make_bars(
    places: Sequence[Any], pool: Sequence[float], picks: Sequence[float], hover: str
) -> list[dict[str, Any]]:
    return [
        {"type": "bar", "x": places, "y": shares, "name": name, "marker": {"color": color}, "hovertemplate": hover}
        for name, color, shares in (("pool", _POOL, pool), ("picks", _PICKS, picks))
    ]


def _layout(height: int) -> dict[str, Any]:
    """Without colors of text and lines, which the page sets for its light or dark mode."""
    return {
        "height": height,
        "margin": {"l": 48, "r": 12, "t": 32, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "dragmode": False,
    }
