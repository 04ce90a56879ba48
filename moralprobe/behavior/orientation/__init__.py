"""Social value orientation: values that a model is assigned, and how rationally it follows them."""
