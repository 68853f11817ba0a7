"""Charts: what they show, as values (`chart`); as SVG for a page (`svg`), as a picture by matplotlib (`picture`).

Colours of a page are classes of `chart.css`, so that they follow its light or dark scheme; nothing in an SVG is a
script or a style of its own, so that a page may forbid both.
"""
