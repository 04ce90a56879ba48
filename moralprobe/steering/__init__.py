"""Change what a model computes: rules, interventions made of them, and text with and without."""
