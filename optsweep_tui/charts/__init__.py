"""Charts as rows of coloured text: a fast braille rasteriser for live curves, plotext for static ones, one style."""
