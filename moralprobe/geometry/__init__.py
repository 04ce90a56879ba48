"""Arithmetic on hidden states and human judgements: arrays in, numbers out, no model in sight."""
