"""How a steered model behaves against control arms: prompts, judges, suites and side effects."""
