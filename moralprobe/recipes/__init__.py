"""Recipes: the whole way from judgements to a report in one short YAML file, run and resumed."""
