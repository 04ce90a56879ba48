from __future__ import annotations

from typing import Any

import pytest
import torch

from moralprobe.errors import ModelError
from moralprobe.models.load import load_model
from moralprobe.models.tiny import FAMILIES, tiny_model, tiny_tokenizer
from moralprobe.models.tokens import chat_frame, collate, encode
from moralprobe.sites import Site

# Short of the windows that were kept, and of different lengths.
TEXTS = ["a b is morally", "lying to a friend is morally", "x is morally", "sharing is morally"]


def spans(texts: list[str]) -> list[tuple[int, int]]:
    return [(0, text.index(" is morally")) for text in texts]


@pytest.mark.parametrize("bos", [False, True])
def test_action_tokens_and_bos(bos: bool) -> None:
    [one] = encode(tiny_tokenizer(bos=bos), ["ab is morally"], [(0, 2)], max_tokens=128)
    assert one.token0_is_content is not bos
    assert len(one) == 13 + bos and not one.truncated
    assert [i for i, a in enumerate(one.action) if a] == [0 + bos, 1 + bos]


def test_trailing_special_tokens_never_count_as_the_last_token() -> None:
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 257), ("<eos>", 258)]
    )
    [one] = encode(tokenizer, ["ab"], [(0, 2)], max_tokens=128)
    assert one.ids[0] == 257 and 258 not in one.ids and len(one) == 3


def test_long_texts_are_cut_at_the_end_and_flagged() -> None:
    [one] = encode(tiny_tokenizer(bos=True), ["abcdefgh"], [(0, 8)], max_tokens=4)
    assert len(one) == 4 and one.truncated and one.ids[0] == 257


def test_unicode_keeps_its_offsets() -> None:
    text = "\u00e9\U0001f600 ok is morally"
    [one] = encode(tiny_tokenizer(), [text], [(0, 5)], max_tokens=128)
    assert sum(one.action) == len("\u00e9\U0001f600 ok".encode())


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="fast tokenizer"):
        encode(Slow(), ["a"], [(0, 1)], max_tokens=8)


def with_chat(template: str) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_chat_frame_is_what_stands_around_a_message() -> None:
    chat = "\n  {{ bos_token }}{{ messages[0]['content'] | trim }}\n\n"
    # As transformers itself renders it, blanks included.
    rendered = with_chat(chat).apply_chat_template(
        [{"role": "user", "content": "X"}], tokenize=False
    )
    assert chat_frame(with_chat(chat)) == tuple(rendered.split("X")) == ("\n  <bos>", "\n")


@pytest.mark.parametrize(
    ("format", "date"),
    [("%d %b %Y", "26 Jul 2024"), ("%Y-%m-%d", "2024-07-26"), ("%d %B %y", "26 July 24")],
)
def test_the_date_in_a_chat_frame_is_always_the_same(format: str, date: str) -> None:
    chat = "Today: {{ strftime_now('" + format + "') }} {{ messages[0]['content'] }}"
    assert chat_frame(with_chat(chat)) == (f"Today: {date} ", "")


def test_a_default_among_several_chat_templates_is_taken() -> None:
    named = {"default": "<{{ messages[0]['content'] }}>", "tool_use": "no"}
    assert chat_frame(with_chat(named)) == ("<", ">")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "its tokenizer names none"),
        ({"rag": "x"}, "no default"),
        ("{{ raise_exception('a system message is needed') }}", "a system message is needed"),
        ("{{ messages[0]['content'] ", "fails: "),
        ("nothing of it", "0 times"),
        ("{{ messages[0]['content'] | upper }}", "0 times"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "2 times"),
    ],
)
def test_a_chat_template_that_cannot_hold_a_message_is_refused(template: Any, why: str) -> None:
    with pytest.raises(ModelError, match=f"chat template.*{why}.*another --template"):
        chat_frame(with_chat(template))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_many_equals_many_batches_of_one(family: str, side: str) -> None:
    """Under padding on either side, at the real tokens, at every layer: the last token included."""
    live = load_model(tiny_model(family), tokenizer=tiny_tokenizer(bos=True))
    encoded = live.encode(TEXTS, spans(TEXTS), max_tokens=128)

    def states(batch):
        read: dict[int, torch.Tensor] = {}
        live.run_taps(
            batch,
            [Site("resid_post", layer) for layer in range(live.n_layers)],
            lambda site, hidden: read.setdefault(site.layer, hidden.clone()),
        )
        return read

    batch = live.collate(encoded, side=side)
    assert batch.padded
    together = states(batch)
    for i, text in enumerate(encoded):
        alone = states(live.collate([text]))
        for layer in range(live.n_layers):
            torch.testing.assert_close(
                together[layer][i][batch.mask[i]], alone[layer][0], rtol=2e-4, atol=2e-5
            )


def test_padding_stands_where_it_was_asked_for() -> None:
    encoded = encode(tiny_tokenizer(), ["ab", "abcd"], [(0, 2), (0, 4)], max_tokens=8)
    left = collate(encoded, pad_id=256, side="left", device=torch.device("cpu"))
    right = collate(encoded, pad_id=256, side="right", device=torch.device("cpu"))
    assert left.ids[0, :2].tolist() == [256, 256] and right.ids[0, 2:].tolist() == [256, 256]
    assert left.mask[0].tolist() == [False, False, True, True]
    assert not collate(encoded[:1], pad_id=256, side="left", device=torch.device("cpu")).padded
