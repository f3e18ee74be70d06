"""The plots of the report, by Plotly."""

import json
from typing import Any

import plotly.graph_objects as go
import plotly.offline
from plotly.subplots import make_subplots

from job.report.content import Content, Histogram, Map

# People with red-green blindness can distinguish these, on white and on black (Okabe and Ito).
_POOL, _PICKS, _LABELLED = "#7f8ca3", "#d55e00", "#009e73"
_MAX_CLASSES = 20


def read_library() -> str:
    """Reads Plotly's JavaScript."""
    return str(plotly.offline.get_plotlyjs())


def make_figures(content: Content) -> dict[str, Any]:
    """Makes the plots, as Plotly's JSON by name; the page shows each in the element "plot-" + name."""
    figures: dict[str, go.Figure] = {}
    if content.map is not None:
        figures["map"] = _plot_map(content.map)
    if content.histograms:
        figures["histograms"] = _plot_histograms(content.histograms)
    if content.classes:
        figures["classes"] = _plot_classes(content)
    return {name: json.loads(figure.to_json()) for name, figure in figures.items()}


def _plot_map(shown: Map) -> go.Figure:
    figure = go.Figure()
    markers = {
        "pool": {"color": _POOL, "size": 5, "opacity": 0.55},
        "labelled": {"color": _LABELLED, "size": 8, "symbol": "diamond"},
        "pick": {"color": _PICKS, "size": 9, "symbol": "star"},
    }
    for kind, marker in markers.items():
        rows = [row for row, kind_of_row in enumerate(shown.kinds) if kind_of_row == kind]
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


def _plot_histograms(histograms: list[Histogram]) -> go.Figure:
    columns = 3
    rows = -(-len(histograms) // columns)
    titles = [histogram.name for histogram in histograms]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles)
    for number, histogram in enumerate(histograms):
        cell = {"row": number // columns + 1, "col": number % columns + 1}
        middles = [(low + high) / 2 for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)]
        for name, color, shares in (("pool", _POOL, histogram.pool), ("picks", _PICKS, histogram.picks)):
            figure.add_bar(x=middles, y=shares, name=name, marker_color=color, showlegend=number == 0, **cell)
    figure.update_layout(_layout(240 * rows), barmode="group", bargap=0.05)
    figure.update_layout(legend={"orientation": "h", "y": 1.08})
    figure.update_annotations(font_size=12)
    return figure


def _plot_classes(content: Content) -> go.Figure:
    rows = content.classes[:_MAX_CLASSES]
    total = sum(row.boxes for row in content.classes)
    names = [row.name for row in rows]
    figure = go.Figure()
    figure.add_bar(x=names, y=[row.boxes / total for row in rows], name="pool", marker_color=_POOL)
    figure.add_bar(x=names, y=[row.share_picked for row in rows], name="picks", marker_color=_PICKS)
    figure.update_layout(_layout(340), barmode="group", legend={"orientation": "h", "y": 1.12})
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(title_text="share of boxes")
    return figure


def _layout(height: int) -> dict[str, Any]:
    """Without colors of text and lines, which the page sets for its light or dark mode."""
    return {
        "height": height,
        "margin": {"l": 48, "r": 12, "t": 48, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "template": "none",
    }
