"""The steering page and its HTTP API: a model steered from a browser, on this machine."""
