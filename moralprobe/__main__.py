"""`python -m moralprobe`."""

from moralprobe.cli.main import run

run()
