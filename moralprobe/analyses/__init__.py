"""The analyses of one layer: hidden states of a design's rows in, measures out."""
