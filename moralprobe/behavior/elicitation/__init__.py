"""Value violations drawn out of a model by everyday stories, measured, and repaired in context."""
