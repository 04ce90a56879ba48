"""The templates that turn an action into the text a model reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from moralprobe.errors import UsageError, nearest


@dataclass(frozen=True)
class Template:
    """A text with one hole. `action-is-morally` is the prompt of arXiv 2603.15615.

    `full_stop` says whether the action keeps its final full stop. With `chat` the text is a user's
    message, and the model's own chat template goes around it.
    """

    name: str
    before: str
    after: str
    full_stop: bool = True
    chat: bool = False

    def shown(self, action: str) -> str:
        """Return the action as it goes in: verbatim, or without its final full stop."""
        return action if self.full_stop else action.rstrip(" .")

    def render(self, action: str) -> str:
        """Return the text that the model reads."""
        return self.before + self.shown(action) + self.after

    def span(self, action: str) -> tuple[int, int]:
        """Return where the action stands in the rendered text, as character offsets."""
        return len(self.before), len(self.before) + len(self.shown(action))

    def inside(self, before: str, after: str) -> Template:
        """Return the same template with more text around it."""
        return replace(self, before=before + self.before, after=self.after + after)


# A letter or nothing follows an action: tokenizers join punctuation to its final full stop.
TEMPLATES: Final[dict[str, Template]] = {
    template.name: template
    for template in (
        Template("action-is-morally", "", " is morally"),
        Template("action", "", ""),
        Template("stripped", "", " is morally", full_stop=False),
        Template("morally-speaking", "Morally speaking, ", " is"),
        Template("is-it-acceptable", "Is it morally acceptable? ", " Answer:"),
        Template("people-judge", "Most people judge ", " to be morally"),
        Template("chat", "Is this morally right or wrong? ", "", chat=True),
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
