"""One page of plots, measured against predicted: SVG in HTML that needs nothing else.

Panels stand by operator and device, both axes logarithmic, with the diagonal and a band of ten per
cent. Points are drawn as one path a datatype, so that a page of many panels stays small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from clustersim.units import format_seconds
from clustersim.validate.measured import Cloud

SIDE, LEFT, BOTTOM, TOP = 220, 46, 30, 24
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000")
BAND = 1.1
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }
h2 { margin: 1.5rem 0 .25rem; font-size: 1.1rem; }
.panels { display: flex; flex-wrap: wrap; gap: 8px; }
svg text { font: 10px system-ui, sans-serif; fill: #444; }
svg .title { font-weight: 600; fill: #222; }
"""


def scatter_page(clouds: Sequence[Cloud], title: str) -> str:
    """Write a page with one panel a device and operator.

    Parameters
    ----------
    clouds : sequence of Cloud
        In the order of the page.
    title : str
        Heading.

    Returns
    -------
    str
        HTML that opens from a file, without network or scripts.
    """
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        "<p>Across: measured; up: predicted. Solid: equal; dashed: ten per cent above and below. "
        "Points are a sample of the rows; the figure of a panel is the mean absolute error of all "
        "of them.</p>",
    ]
    for op in dict.fromkeys(cloud.op for cloud in clouds):
        own = [cloud for cloud in clouds if cloud.op == op]
        kinds = sorted({str(kind) for cloud in own for kind in np.unique(cloud.kinds)})
        colours = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(kinds)}
        legend = " ".join(
            f'<span style="color:{colour}">&#9632; {escape(kind or "all")}</span>'
            for kind, colour in colours.items()
        )
        parts.append(f'<h2>{escape(op)}</h2><p>{legend}</p><div class="panels">')
        parts += [_panel(cloud, colours) for cloud in own]
        parts.append("</div>")
    return "\n".join([*parts, "</body></html>\n"])


def _panel(cloud: Cloud, colours: dict[str, str]) -> str:
    both = np.concatenate((cloud.measured_s, cloud.predicted_s))
    low, high = math.floor(math.log10(both.min())), math.ceil(math.log10(both.max()))
    high = max(high, low + 1)

    def place(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip((np.log10(seconds) - low) / (high - low), 0, 1) * SIDE

    width, height = LEFT + SIDE + 12, TOP + SIDE + BOTTOM
    title = f"{cloud.device}: {100 * cloud.mape:.1f} % of {cloud.rows:,} rows"
    return "".join(
        [
            f'<svg width="{width}" height="{height}" role="img" aria-label="{escape(title)}">',
            f'<text class="title" x="{LEFT}" y="14">{escape(title)}</text>',
            f'<g transform="translate({LEFT} {TOP})">',
            f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>',
            *_ticks(low, high),
            *_lines(SIDE * math.log10(BAND) / (high - low)),
            *(
                _points(place(cloud.measured_s[own]), place(cloud.predicted_s[own]), colour)
                for kind, colour in colours.items()
                if (own := cloud.kinds == kind).any()
            ),
            "</g></svg>",
        ]
    )


def _ticks(low: int, high: int) -> Iterator[str]:
    """A line and a label at each power of ten, on both axes."""
    for power in range(low, high + 1):
        at = round(SIDE * (power - low) / (high - low), 1)
        up, label = round(SIDE - at, 1), escape(format_seconds(10.0**power))
        yield f'<path d="M{at} 0V{SIDE}M0 {up}H{SIDE}" stroke="#eee"/>'
        yield f'<text x="{at}" y="{SIDE + 14}" text-anchor="middle">{label}</text>'
        yield f'<text x="-4" y="{up + 3}" text-anchor="end">{label}</text>'


def _lines(band: float) -> Iterator[str]:
    """The diagonal and the band around it, `band` pixels up and down."""
    yield f'<path d="M0 {SIDE}L{SIDE} 0" stroke="#444"/>'
    yield (
        f'<path d="M0 {SIDE - band:.1f}L{SIDE - band:.1f} 0M{band:.1f} {SIDE}L{SIDE} {band:.1f}" '
        'stroke="#888" stroke-dasharray="3 3"/>'
    )


def _points(x: NDArray[np.float64], y: NDArray[np.float64], colour: str) -> str:
    """Dots as strokes of no length with round ends."""
    marks = "".join(f"M{a:.1f} {SIDE - b:.1f}h0" for a, b in zip(x, y, strict=True))
    return (
        f'<path d="{marks}" stroke="{colour}" stroke-width="3" stroke-linecap="round" '
        'stroke-opacity="0.55" fill="none"/>'
    )
