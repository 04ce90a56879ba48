"""Steered text against a loop of one's own: no cache, no padding, no hooks of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from moralprobe.errors import DataError, ModelError, NumericError, UsageError
from moralprobe.models.causal import CausalModel
from moralprobe.models.load import load_model
from moralprobe.models.tiny import FAMILIES, tiny_model, tiny_tokenizer
from moralprobe.steering import reading
from moralprobe.steering.generate import end_ids, generate, side_by_side
from moralprobe.steering.intervention import Edit, Intervention, usual_strengths
from moralprobe.steering.rules import Add, Cap, Gate, ProjectOut
from moralprobe.steering.sampling import Sampling, draw

PROMPTS = ["Is it fair", "She broke her promise, and so", "no", "Tell me why one should be kind to"]
D = 32


def tiny(family: str = "llama", *, bos: bool = True) -> CausalModel:
    return load_model(tiny_model(family), tokenizer=tiny_tokenizer(bos=bos))


def vector(seed: int, size: float = 4.0) -> torch.Tensor:
    v = torch.randn(D, generator=torch.Generator().manual_seed(seed))
    return size * v / v.norm()


def some_edits() -> Intervention:
    return Intervention(
        (
            Edit(1, Add(vector(1)), 0.7),
            Edit(1, ProjectOut(vector(2)[None]), 0.5),
            Edit(2, Cap(vector(3), 0.2), 1.0, sink_norm=None),
            Edit(2, Add(vector(4)), -0.6, sink_norm=9.0, gate=Gate(vector(5), 0.1)),
        )
    )


Changes = dict[int, Callable[[torch.Tensor, int], torch.Tensor]]


def by_hand(at: int, generated: bool) -> Changes:
    """The same edits on one state x at a position, written out."""

    def first(x: torch.Tensor, position: int) -> torch.Tensor:
        if position == 0:
            return x
        u = vector(2) / vector(2).norm()
        return x + 0.7 * vector(1) - 0.5 * (x @ u) * u

    def second(x: torch.Tensor, position: int) -> torch.Tensor:
        u = vector(3) / vector(3).norm()
        new = x - max(float(x @ u) - 0.2, 0.0) * u
        if position > 0 and x.norm() <= 9.0 and float(x @ vector(5)) + 0.1 > 0:
            new = new - 0.6 * vector(4)
        return new

    return {1: first, 2: second}


def naive(
    model: CausalModel, prompt: str, sampling: Sampling, changes: Changes, reached: str
) -> tuple[list[int], int]:
    """Write token by token, each time from the whole text; return the ids and edits of tokens."""
    ids = model.tokenizer(prompt)["input_ids"]
    width = len(ids)
    numbers = np.random.default_rng(
        [sampling.seed, xxhash.xxh64_intdigest(prompt.encode())]
    ).random(sampling.max_new_tokens)
    edited: set[tuple[int, int]] = set()
    new: list[int] = []
    for step in range(sampling.max_new_tokens):
        handles = []
        for layer, change in changes.items():

            def hook(_m: Any, _i: Any, out: Any, layer: int = layer, change: Any = change) -> Any:
                states = (out[0] if isinstance(out, tuple) else out).clone()
                for at in range(states.shape[1]):
                    inside = at < width
                    if reached == "all" or (reached == "prompt") == inside:
                        after = change(states[0, at].clone(), at)
                        if not torch.equal(after, states[0, at]):
                            edited.add((layer, at))
                        states[0, at] = after
                return (states, *out[1:]) if isinstance(out, tuple) else states

            handles.append(model.decoder.layers[layer].register_forward_hook(hook))
        with torch.no_grad():
            logits = model.model(torch.tensor([[*ids, *new]]), use_cache=False).logits[0, -1]
        for handle in handles:
            handle.remove()
        if sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            token = pick(logits, float(numbers[step]), sampling)
        new.append(token)
        if token in end_ids(model):
            break
    # The last token is never read again.
    return new, len({(layer, at) for layer, at in edited if at < width + len(new) - 1})


def pick(logits: torch.Tensor, number: float, how: Sampling) -> int:
    """The definition: sort, keep the nucleus, renormalise, walk until the number is passed."""
    p = (logits.double() / how.temperature).softmax(-1)
    order = sorted(range(len(p)), key=lambda i: (-float(p[i]), i))
    if how.top_k:
        order = order[: how.top_k]
    total = sum(float(p[i]) for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass >= how.top_p * total and kept:
            break
        kept.append(i)
        mass += float(p[i])
    if how.top_p == 1 and not how.top_k:
        kept = list(range(len(p)))
    target, walked = number * sum(float(p[i]) for i in kept), 0.0
    for i in kept:
        walked += float(p[i])
        if walked > target:
            return i
    return kept[-1]


SAMPLING = Sampling(max_new_tokens=7, temperature=0.9, top_p=0.9, seed=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_writes_what_a_loop_of_ones_own_writes(family: str) -> None:
    model = tiny(family)
    found = generate(model, PROMPTS, some_edits(), sampling=SAMPLING, chat=False)
    for prompt, one in zip(PROMPTS, found, strict=True):
        ids, edits = naive(model, prompt, SAMPLING, by_hand(0, True), "all")
        assert list(one.ids) == ids
        assert one.edits == edits > 0
        assert one.change > 0


@pytest.mark.parametrize("positions", ["prompt", "generated"])
def test_positions_are_those_of_the_text(positions: str) -> None:
    model = tiny()
    found = generate(
        model, PROMPTS, some_edits(), sampling=SAMPLING, chat=False, positions=positions
    )
    plain = generate(model, PROMPTS, sampling=SAMPLING, chat=False)
    assert [one.ids for one in found] != [one.ids for one in plain]
    for prompt, one in zip(PROMPTS, found, strict=True):
        ids, edits = naive(model, prompt, SAMPLING, by_hand(0, True), positions)
        assert list(one.ids) == ids
        assert one.edits == edits


def test_a_span_is_steered_and_nothing_else() -> None:
    model, edit = tiny(), Intervention((Edit(1, Add(vector(1))),))
    spans = [(6, 10), (0, 3), (1, 2), (5, 9)]
    found = generate(
        model, PROMPTS, edit, sampling=SAMPLING, chat=False, positions="spans", spans=spans
    )
    for prompt, (low, high), one in zip(PROMPTS, spans, found, strict=True):
        # Tokens are bytes, and one BOS stands in front.
        changes: Changes = {
            1: lambda x, at, low=low, high=high: x + vector(1) if low < at <= high else x  # type: ignore[misc]
        }
        ids, _ = naive(model, prompt, SAMPLING, changes, "all")
        assert list(one.ids) == ids
        assert one.edits == high - low


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_oss", "qwen3_moe"])
def test_a_batch_gives_what_its_texts_alone_give(family: str) -> None:
    model = tiny(family)
    together = generate(model, PROMPTS, some_edits(), sampling=SAMPLING, chat=False)
    alone = generate(model, PROMPTS, some_edits(), sampling=SAMPLING, chat=False, batch=1)
    assert [(o.ids, o.text, o.edits, o.ended) for o in together] == [
        (o.ids, o.text, o.edits, o.ended) for o in alone
    ]
    np.testing.assert_allclose([o.change for o in together], [o.change for o in alone], rtol=1e-4)


def test_a_repetition_penalty_is_transformers_own_and_never_of_padding() -> None:
    model = tiny()
    how = Sampling(max_new_tokens=9, temperature=0, repetition_penalty=1.7)
    together = generate(model, PROMPTS, sampling=how, chat=False)
    for prompt, one in zip(PROMPTS, together, strict=True):
        ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
        reference = model.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=9,
            repetition_penalty=1.7,
        )
        assert list(one.ids) == reference[0, ids.shape[1] :].tolist()


def test_a_model_s_own_defaults_dont_enter() -> None:
    model = tiny()
    plain = generate(model, PROMPTS, sampling=SAMPLING, chat=False)
    token = plain[0].ids[0]
    model.model.generation_config.suppress_tokens = [token]
    own = model.model.generation_config
    assert generate(model, PROMPTS, sampling=SAMPLING, chat=False) == plain
    assert model.model.generation_config is own


def test_a_strength_of_0_is_no_steering_at_all() -> None:
    model = tiny()
    plain = generate(model, PROMPTS, sampling=SAMPLING, chat=False)
    nothing = generate(model, PROMPTS, some_edits() * 0, sampling=SAMPLING, chat=False)
    assert nothing == plain
    assert all(one.edits == 0 and one.change == 0 for one in nothing)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
@pytest.mark.parametrize("family", FAMILIES)
def test_side_by_side_is_the_model_as_it_is_and_steered(family: str, positions: str) -> None:
    model = tiny(family)
    how: dict[str, Any] = {"sampling": SAMPLING, "chat": False}
    # The last is longer than any family's window or chunk.
    for prompt in (PROMPTS[1], "He " + "went on and on " * 6, "He " + "went on and on " * 12):
        plain, steered = side_by_side(model, prompt, some_edits(), positions=positions, **how)
        assert plain == generate(model, [prompt], **how)[0] and plain.edits == 0
        (alone,) = generate(model, [prompt], some_edits(), positions=positions, **how)
        assert (steered.ids, steered.edits) == (alone.ids, alone.edits) and steered.edits > 0
        assert steered.change == pytest.approx(alone.change, rel=1e-4)
        same = side_by_side(model, prompt, some_edits() * 0, positions=positions, **how)
        assert same == (plain, plain)
    with pytest.raises(UsageError, match="steered or not"):
        generate(model, PROMPTS, some_edits(), steered=[True], **how)


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_isnt_edited_begins_before_what_is_is_read(
    goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, how = tiny(), Sampling(max_new_tokens=7, temperature=0.9, seed=3, repetition_penalty=1.3)
    if not goes_on:  # as of a model whose cache can't be put together
        monkeypatch.setattr(reading, "can_go_on", lambda cache: False)
    happened: list[tuple[str, Any, str]] = []

    class Told(Add):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            happened.append(("edited", tuple(x.shape[:2]), ""))
            return super().__call__(x)

    edit = Edit(1, Told(vector(1)), 0.7)
    prompts, edited = [PROMPTS[0], PROMPTS[1], PROMPTS[1]], [True, False, True]
    written = generate(
        model,
        prompts,
        Intervention((edit,)),
        steered=edited,
        sampling=how,
        chat=False,
        on_text=lambda row, piece: happened.append(("said", row, piece)),
    )
    assert happened[0][:2] == ("said", 1)
    width = len(model.tokenizer(PROMPTS[1])["input_ids"])
    assert happened[1] == ("edited", (2, width - 1) if goes_on else (3, width), "")
    for row, one in enumerate(written):
        assert "".join(piece for what, at, piece in happened if (what, at) == ("said", row)) == (
            one.text
        )
        alone = generate(
            model,
            [prompts[row]],
            Intervention((edit,)) if edited[row] else None,
            sampling=how,
            chat=False,
        )
        assert (one.ids, one.edits) == (alone[0].ids, alone[0].edits)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral"])
@pytest.mark.parametrize(
    "how",
    [
        Sampling(5, temperature=0),
        Sampling(5, temperature=0, repetition_penalty=1.5),
        Sampling(1, temperature=0.9, seed=3),
        Sampling(6, temperature=1.5, top_k=9, seed=8),
    ],
    ids=["greedy", "penalised", "one token", "top_k"],
)
def test_texts_that_are_edited_and_not_give_in_a_batch_what_each_alone_gives(
    family: str, how: Sampling
) -> None:
    model = tiny(family)
    prompts = [*PROMPTS, PROMPTS[1], "He " + "went on and on " * 6]
    edited = [True, False, False, True, True, False]
    together = generate(
        model, prompts, some_edits(), steered=edited, sampling=how, chat=False, seeds=range(6)
    )
    for row, (prompt, one) in enumerate(zip(prompts, together, strict=True)):
        edit = some_edits() if edited[row] else None
        (alone,) = generate(model, [prompt], edit, sampling=how, chat=False, seeds=[row])
        assert (one.ids, one.edits, one.ended) == (alone.ids, alone.edits, alone.ended)
        assert one.change == pytest.approx(alone.change, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("longer", [-1, 0, 1])
def test_a_prompt_as_long_as_the_window_is_read_right(longer: int) -> None:
    model = tiny("gemma3_text")
    window = model.model.config.get_text_config().sliding_window
    prompt = ("abcdefgh" * window)[: window + longer - 1]  # and BOS
    plain, steered = side_by_side(model, prompt, some_edits(), sampling=SAMPLING, chat=False)
    assert plain == generate(model, [prompt], sampling=SAMPLING, chat=False)[0]
    (alone,) = generate(model, [prompt], some_edits(), sampling=SAMPLING, chat=False)
    assert (steered.ids, steered.edits) == (alone.ids, alone.edits)


def test_a_first_token_may_end_a_text_and_texts_are_stopped() -> None:
    model, greedy = tiny(), Sampling(6, temperature=0)
    first = generate(model, PROMPTS[1:2], sampling=greedy, chat=False)[0].ids[0]
    said: list[tuple[int, str]] = []
    model.model.generation_config.eos_token_id = first
    plain, steered = side_by_side(
        model,
        PROMPTS[1],
        Intervention((Edit(1, Add(vector(7, 60.0))),)),
        sampling=greedy,
        chat=False,
        on_text=lambda row, piece: said.append((row, piece)),
    )
    assert plain.ids == (first,) and plain.ended and steered.ids[0] != first
    assert [piece for row, piece in said if row == 0] == [plain.text] and len(steered.ids) > 1
    model.model.generation_config.eos_token_id = None
    stopped = side_by_side(
        model, PROMPTS[1], some_edits(), sampling=SAMPLING, chat=False, stop=lambda: True
    )
    assert [len(one.ids) for one in stopped] == [1, 1]


def test_a_span_beside_a_text_that_isnt_edited() -> None:
    model, edit = tiny(), Intervention((Edit(1, Add(vector(1))),))
    how: dict[str, Any] = {"sampling": SAMPLING, "chat": False, "positions": "spans"}
    plain, steered = side_by_side(model, PROMPTS[1], edit, spans=[(0, 3)], **how)
    (alone,) = generate(model, [PROMPTS[1]], edit, spans=[(0, 3)], **how)
    assert (steered.ids, steered.edits) == (alone.ids, 3) and plain.edits == 0


def test_a_model_that_reads_anew_is_edited_as_if_nothing_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As Phi-3 does where its context goes over to the long one.
    model, how = tiny(), {"sampling": SAMPLING, "chat": False, "positions": "prompt"}
    alone = generate(model, [PROMPTS[1]], some_edits(), **how)[0]  # type: ignore[arg-type]
    prepare = type(model.model).prepare_inputs_for_generation

    def anew(self: Any, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        if input_ids.shape[1] == len(model.tokenizer(PROMPTS[1])["input_ids"]):
            past_key_values, kwargs["next_sequence_length"] = None, None
        return prepare(self, input_ids, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(type(model.model), "prepare_inputs_for_generation", anew)
    _, steered = side_by_side(model, PROMPTS[1], some_edits(), **how)  # type: ignore[arg-type]
    assert (steered.ids[0], steered.edits) == (alone.ids[0], alone.edits)


def test_what_was_said_is_kept_and_only_once() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    draws = reading.keeping(lambda ids, scores: scores, {0: 2})
    ids = torch.zeros((2, 1), dtype=torch.int64)
    assert draws(ids, scores).argmax(-1).tolist() == [2, 0]
    assert draws(ids, scores).argmax(-1).tolist() == [1, 0]
    assert scores[0].tolist() == [0.0, 2.0, 1.0]


def test_nothing_is_said_where_the_other_text_cant_be_edited() -> None:
    said: list[str] = []
    foreign = Intervention((Edit(1, Add(torch.ones(D + 1))),))
    spans = {"positions": "spans", "spans": [(0, 0), (0, 2)]}
    for edit, how in ((foreign, {}), (some_edits(), spans)):
        with pytest.raises((ModelError, UsageError, DataError)):
            generate(
                tiny(),
                [PROMPTS[1]] * 2,
                edit,
                steered=[False, True],
                sampling=SAMPLING,
                chat=False,
                on_text=lambda row, piece: said.append(piece),
                **how,  # type: ignore[arg-type]
            )
    assert not said


def test_the_same_seed_gives_the_same_text_and_another_another() -> None:
    model = tiny()
    one, two, other = (
        [g.ids for g in generate(model, PROMPTS, sampling=s, chat=False)]
        for s in (SAMPLING, SAMPLING, Sampling(max_new_tokens=7, temperature=0.9, seed=4))
    )
    assert one == two != other


def test_without_temperature_the_likeliest_is_taken_as_transformers_does() -> None:
    model = tiny()
    prompt = PROMPTS[1]
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    reference = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=9
    )
    (found,) = generate(
        model, [prompt], sampling=Sampling(max_new_tokens=9, temperature=0), chat=False
    )
    assert list(found.ids) == reference[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "how",
    [
        Sampling(temperature=1.3, top_p=0.6),
        Sampling(temperature=0.5, top_p=1.0),
        Sampling(temperature=1.0, top_p=0.95, top_k=7),
        Sampling(temperature=5.0, top_p=0.999),
        Sampling(temperature=0.8, top_p=1e-6),
    ],
)
def test_a_draw_is_its_definition(how: Sampling) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(scale=2, size=(64, 400))).float()
    logits[:, 5] = logits[:, 9]  # a tie
    numbers = torch.from_numpy(rng.random(64)).float()
    found = draw(logits, numbers, how)
    expected = [pick(row, float(n), how) for row, n in zip(logits, numbers, strict=True)]
    assert (found.numpy() == np.array(expected)).mean() > 0.98  # fp32 against fp64 at an edge


def test_draws_have_the_model_s_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(20000, 1)
    numbers = torch.from_numpy(np.random.default_rng(1).random(20000)).float()
    for how in (Sampling(temperature=1, top_p=1), Sampling(temperature=1, top_p=1, top_k=4)):
        share = torch.bincount(draw(logits, numbers, how), minlength=4) / 20000
        torch.testing.assert_close(share, logits[0].softmax(-1), atol=0.015, rtol=0)


def test_pieces_make_up_the_text() -> None:
    model = tiny()
    said: dict[int, str] = {}

    def take(row: int, piece: str) -> None:
        said[row] = said.get(row, "") + piece

    found = generate(model, PROMPTS, sampling=SAMPLING, chat=False, on_text=take, batch=3)
    assert [said.get(i, "") for i in range(len(PROMPTS))] == [one.text for one in found]


def test_it_stops_within_one_token() -> None:
    model, seen = tiny(), []

    def stop() -> bool:
        seen.append(1)
        return len(seen) == 3

    (one,) = generate(
        model, PROMPTS[:1], sampling=Sampling(max_new_tokens=50), chat=False, stop=stop
    )
    assert len(one.ids) == 3


def test_hooks_are_gone_after_an_error() -> None:
    model = tiny()

    def fail() -> bool:
        raise RuntimeError("the reader went away")

    with pytest.raises(RuntimeError, match="went away"):
        generate(model, PROMPTS, some_edits(), sampling=SAMPLING, chat=False, stop=fail)
    assert not any(m._forward_hooks for m in model.model.modules())


def test_edits_that_give_no_number_are_refused() -> None:
    model = tiny()
    huge = Intervention((Edit(1, Add(vector(1, 1e37)), 1000.0),))
    with pytest.raises(NumericError, match="strength"):
        generate(model, PROMPTS, huge, sampling=SAMPLING, chat=False)
    with pytest.raises(UsageError, match="strength"):
        Edit(1, Add(vector(1)), math.nan)
    with pytest.raises(UsageError, match="at most 1e"):
        Edit(1, Add(vector(1)), 1e308)
    with pytest.raises(UsageError, match="at most 1000"):
        some_edits() * 1001
    with pytest.raises(UsageError, match="strength"):
        some_edits() * math.nan


def test_a_model_whose_folder_was_renamed_is_the_same_model() -> None:
    model = tiny()
    renamed = {**model.identity, "id": "another name", "revision": "1f"}
    same = Intervention((Edit(1, Add(vector(1))),), {"identity": renamed})
    here = Intervention((Edit(1, Add(vector(1))),), {"identity": model.identity})
    generate(model, PROMPTS, same + here, sampling=Sampling(max_new_tokens=1), chat=False)
    other = Intervention((Edit(1, Add(vector(1))),), {"identity": {**renamed, "tokenizer": "x"}})
    with pytest.raises(ModelError, match=r"differ in tokenizer\."):
        generate(model, PROMPTS, other, chat=False)
    with pytest.raises(ModelError, match="of different models"):
        other + here
    more = Intervention((Edit(1, Add(vector(1))),), {"identity": {**renamed, "lora": "x"}})
    with pytest.raises(ModelError, match=r"differ in lora\."):
        generate(model, PROMPTS, more, chat=False)


def test_a_direction_is_tried_at_smaller_strengths() -> None:
    edit = Edit(1, Add(vector(1)))
    tuned = Intervention((edit,), {}, {"made_by": "topology"})
    assert usual_strengths([tuned]) == (0.0, 0.25, 0.5, 1.0)
    for kind in ("means", "ridge"):
        long = Intervention((edit,), {}, {"made_by": kind})
        assert usual_strengths([tuned, long]) == (0.0, 0.05, 0.1, 0.2)
        assert usual_strengths([tuned + long]) == (0.0, 0.05, 0.1, 0.2)


def test_what_doesnt_belong_is_refused() -> None:
    model = tiny()
    with pytest.raises(ModelError, match=r"edits 8 dimensions, .* has 32"):
        generate(model, PROMPTS, Intervention((Edit(1, Add(torch.ones(8))),)), chat=False)
    with pytest.raises(ModelError, match="layers 0 to 2"):
        generate(model, PROMPTS, Intervention((Edit(3, Add(vector(1))),)), chat=False)
    with pytest.raises(ModelError, match="differ in"):
        other = Intervention((Edit(1, Add(vector(1))),), {"name": "x", "identity": {"weights": 1}})
        generate(model, PROMPTS, other, chat=False)
    with pytest.raises(DataError, match="prompt 2 is empty"):
        generate(model, ["a", "  "], chat=False)
    with pytest.raises(UsageError, match="no prompt"):
        generate(model, [], chat=False)
    with pytest.raises(DataError, match="longer than the model can read"):
        generate(model, ["a" * 300], chat=False)
    with pytest.raises(DataError, match="ask for fewer tokens"):
        generate(model, ["a" * 200], sampling=Sampling(max_new_tokens=100), chat=False)
    with pytest.raises(UsageError, match="did you mean generated"):
        generate(model, ["a"], chat=False, positions="generate")
    with pytest.raises(UsageError, match="span for every prompt"):
        generate(model, ["a"], chat=False, positions="spans")
    with pytest.raises(ModelError, match="no chat template"):
        generate(model, ["a"], chat=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": math.nan},
        {"temperature": 1e-45},
        {"top_p": 0},
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**9},
    ],
)
def test_sampling_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)
