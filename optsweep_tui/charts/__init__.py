"""Charts: a fast braille rasteriser for live curves, plotext for static figures, matplotlib for files, one style."""
