"""The templates that turn an action into the text a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from moralprobe.errors import UsageError, nearest


@dataclass(frozen=True)
class Template:
    """A text with one hole. `action-is-morally` is the prompt of arXiv 2603.15615."""

    name: str
    before: str
    after: str

    def render(self, action: str) -> str:
        """Return the text that the model reads; the action goes in verbatim."""
        return self.before + action + self.after

    def span(self, action: str) -> tuple[int, int]:
        """Return where the action stands in the rendered text, as character offsets."""
        return len(self.before), len(self.before) + len(action)


TEMPLATES: Final[dict[str, Template]] = {
    template.name: template
    for template in (
        Template("action-is-morally", "", " is morally"),
        Template("action", "", ""),
        # For single words: what stands in front, and not the word, is the token 0 that sink-free
        # poolings leave out; and a word after a blank is tokenised as it is in running text.
        Template("the-item", "the ", ""),
        Template("the-item-is", "the ", " is"),
        Template("item-is-a", "", " is a"),
    )
}
"""Every template by its name."""


def get_template(name: str) -> Template:
    """Return the template of that name, or raise UsageError."""
    if name not in TEMPLATES:
        raise UsageError(
            f"unknown template {name!r}", nearest(name, TEMPLATES), "choose one of these"
        )
    return TEMPLATES[name]
