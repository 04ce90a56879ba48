"""Pooled hidden states of many texts: planned, extracted, stored, read back one layer at a time."""
