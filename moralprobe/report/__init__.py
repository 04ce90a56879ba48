"""Figures and one HTML folder that opens from file://; computes nothing."""
