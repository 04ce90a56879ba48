"""What a model is asked: a message of a user in its chat template, as tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from moralprobe.errors import DataError
from moralprobe.models.tokens import Encoded, chat_frame, encode

THOUGHT_BEGINS: Final = "<think>"
THOUGHT_ENDS: Final = "</think>"
_UNLIMITED: Final = 1 << 30


def has_chat(tokenizer: Any) -> bool:
    """Return whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def opens_thought(
    tokenizer: Any, *, system: str | None = None, thinking: bool | None = None
) -> bool:
    """Return whether a chat template ends its prompts within a thought that it opens itself.

    It does for models that always think, as QwQ and the distilled R1: what they write closes a
    thought that it never began. Arguments and errors are those of `chat_frame`; without a template
    there is no thought.
    """
    if not has_chat(tokenizer):
        return False
    _, after = chat_frame(tokenizer, system=system, thinking=thinking)
    return after.rfind(THOUGHT_BEGINS) > after.rfind(THOUGHT_ENDS)


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    chat: bool,
    system: str | None = None,
    turns: Sequence[tuple[str, str]] = (),
    thinking: bool | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
    context: int | None = None,
) -> list[Encoded]:
    """Return prompts as tokens, each up to where the model's own text begins.

    What a prompt says is text, whatever it looks like: the spelling of an added token in it is cut
    into ordinary tokens, so that no one's words are taken for another role's.

    Args:
        tokenizer: a fast transformers tokenizer.
        prompts: what a user says, or with no chat the text that is continued.
        chat: put each into the tokenizer's chat template.
        system: a system message before it.
        turns: what was said before it, a user's message and the answer each.
        thinking: what the template is told of `enable_thinking`, if it knows that.
        spans: first and last-but-one character in each prompt that are marked as its action; all
            of it, if not given.
        context: how many tokens the model can read.

    Raises:
        DataError: an empty prompt, or one that is longer than the context.
        ModelError: no chat template, or one that can't be used.
    """
    for i, prompt in enumerate(prompts):
        if not prompt.strip():
            raise DataError(
                f"prompt {i + 1} is empty", f"it is {prompt!r}", "leave it out, or write it"
            )
    before, after = "", ""
    if chat:
        before, after = chat_frame(tokenizer, system=system, turns=turns, thinking=thinking)
    elif system is not None or turns:
        raise DataError(
            f"a {'system message' if system is not None else 'dialogue'} needs a chat template",
            "the prompts are continued as plain text",
            "leave it out, or use a model that was tuned to chat",
        )
    marks = spans if spans is not None else [(0, len(prompt)) for prompt in prompts]
    # Not only those that have a name: roles and thoughts are marked by others.
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    found: list[Encoded] = []
    for prompt, (low, high) in zip(prompts, marks, strict=True):
        if any(token in prompt for token in special):
            text = _in_pieces(tokenizer, before, prompt, after, (low, high))
        else:
            whole, at = f"{before}{prompt}{after}", len(before)
            (text,) = encode(
                tokenizer,
                [whole],
                [(at + low, at + high)],
                max_tokens=_UNLIMITED,
                add_special_tokens=not chat,
            )
            if chat:  # `encode` leaves out special tokens at the end, where the answer begins
                text = _whole(tokenizer, whole, text)
        if context is not None and len(text) >= context:
            raise DataError(
                "a prompt is longer than the model can read",
                f"{len(text)} tokens, and {context} is its context: {prompt[:40]!r}...",
                "shorten it",
            )
        found.append(text)
    return found


def _whole(tokenizer: Any, text: str, cut: Encoded) -> Encoded:
    """Return a text with the special tokens that it ends in."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    more = len(ids) - len(cut)
    return replace(cut, ids=ids, action=[*cut.action, *[False] * more])


def _in_pieces(
    tokenizer: Any, before: str, prompt: str, after: str, span: tuple[int, int]
) -> Encoded:
    """Tokenize what stands around a prompt with its added tokens, and the prompt without any."""

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    own = _plain_backend(tokenizer).encode(prompt, add_special_tokens=False)
    if forged := set(own.ids) & set(tokenizer.added_tokens_decoder):
        raise DataError(
            "a prompt spells one of the model's own control tokens",
            f"it can't be read as text: {tokenizer.decode(sorted(forged))!r} in {prompt[:40]!r}",
            "write it otherwise",
        )
    front, back = ids_of(before) if before else [], ids_of(after) if after else []
    if not before:  # plain text begins as the tokenizer begins texts
        front = [i for i in tokenizer("", verbose=False)["input_ids"][:1] if i is not None]
    low, high = span
    action = [a < high and b > low for a, b in own.offsets]
    return Encoded(
        [*front, *own.ids, *back],
        [*[False] * len(front), *action, *[False] * len(back)],
        False,
        not front,
    )


def _plain_backend(tokenizer: Any) -> Any:
    """Return a tokenizer's backend without its added tokens: all that it reads is text."""
    from tokenizers import Tokenizer

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["added_tokens"] = []
    described["post_processor"] = None
    described["padding"] = described["truncation"] = None
    return Tokenizer.from_str(json.dumps(described))
