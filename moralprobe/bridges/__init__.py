"""Where a behavioural instrument meets a model's insides."""
