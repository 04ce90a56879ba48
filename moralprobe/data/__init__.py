"""Rows and texts: reading, checking, splitting and sampling human moral judgements."""
