"""Language models: loading them, finding their layers, reading their hidden states."""
