"""Sparse autoencoders: trained, judged, and searched for moral features."""
