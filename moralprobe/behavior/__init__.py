"""Instruments that need text and numbers alone: nothing of hidden states."""
