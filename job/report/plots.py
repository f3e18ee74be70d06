"""The plots of the report, by Plotly."""

import json
from typing import Any

import plotly.graph_objects as go
import plotly.offline
from plotly.subplots import make_subplots

from job.report.content import Content, Histogram, Map

# Told apart by people who see no red or green, on white and on black (Okabe and Ito).
_POOL, _PICKS, _LABELLED = "#7f8ca3", "#d55e00", "#009e73"
_CLASSES = 20


def library() -> str:
    """Plotly's JavaScript."""
    return str(plotly.offline.get_plotlyjs())


def figures(content: Content) -> dict[str, Any]:
    """The plots by the id of the element that they go into, as Plotly's JSON."""
    found: dict[str, go.Figure] = {}
    if content.map is not None:
        found["map"] = _map(content.map)
    if content.histograms:
        found["histograms"] = _histograms(content.histograms)
    if content.classes:
        found["classes"] = _classes(content)
    return {name: json.loads(figure.to_json()) for name, figure in found.items()}


def _map(shown: Map) -> go.Figure:
    figure = go.Figure()
    marks = {
        "pool": {"color": _POOL, "size": 5, "opacity": 0.55},
        "labelled": {"color": _LABELLED, "size": 8, "symbol": "diamond"},
        "pick": {"color": _PICKS, "size": 9, "symbol": "star"},
    }
    for kind, marker in marks.items():
        rows = [number for number, each in enumerate(shown.kind) if each == kind]
        if rows:
            figure.add_scatter(
                x=shown.points[rows, 0].round(4).tolist(),
                y=shown.points[rows, 1].round(4).tolist(),
                mode="markers",
                name=kind,
                marker=marker,
                customdata=rows,
                hoverinfo="none",
            )
    figure.update_layout(_layout(460), legend={"orientation": "h", "y": 1.08})
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False, scaleanchor="x")
    return figure


def _histograms(histograms: list[Histogram]) -> go.Figure:
    columns = 3
    titles = [each.name for each in histograms]
    figure = make_subplots(rows=-(-len(histograms) // columns), cols=columns, subplot_titles=titles)
    for number, each in enumerate(histograms):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        middles = [(low + high) / 2 for low, high in zip(each.edges, each.edges[1:], strict=False)]
        for name, color, shares in (("pool", _POOL, each.pool), ("picks", _PICKS, each.picks)):
            figure.add_bar(x=middles, y=shares, name=name, marker_color=color, showlegend=number == 0, **place)
    figure.update_layout(_layout(240 * -(-len(histograms) // columns)), barmode="group", bargap=0.05)
    figure.update_layout(legend={"orientation": "h", "y": 1.08})
    figure.update_annotations(font_size=12)
    return figure


def _classes(content: Content) -> go.Figure:
    shown = content.classes[:_CLASSES]
    total = sum(each.boxes for each in content.classes)
    figure = go.Figure()
    names = [each.name for each in shown]
    figure.add_bar(x=names, y=[each.boxes / total for each in shown], name="pool", marker_color=_POOL)
    figure.add_bar(x=names, y=[each.share_picked for each in shown], name="picks", marker_color=_PICKS)
    figure.update_layout(_layout(340), barmode="group", legend={"orientation": "h", "y": 1.12})
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(title_text="share of boxes")
    return figure


def _layout(height: int) -> dict[str, Any]:
    """Colours of text and lines come from the page, light or dark."""
    return {
        "height": height,
        "margin": {"l": 48, "r": 12, "t": 48, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "template": "none",
    }
