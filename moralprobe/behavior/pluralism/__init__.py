"""Pluralism: how well answers agree with communities', and what such agreement can't say."""
