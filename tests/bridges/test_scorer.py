"""Scorers that read inside a model: what is planted is learnt, labels that are shuffled aren't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moralprobe.behavior.elicitation.calibration import calibrate, parts_of
from moralprobe.behavior.elicitation.principles import Cases
from moralprobe.behavior.elicitation.scorers import Judge
from moralprobe.bridges.scorer import (
    HYPOTHESIS,
    PROMPT,
    fit_linear,
    load_entailment,
    scorer_of,
)
from moralprobe.errors import DataError, ModelError, UsageError
from moralprobe.models.tiny import save_tiny
from tests.behavior.elicitation.scripts import cases, principles
from tests.steering.test_generate import tiny


def worded(n: int = 60) -> Cases:
    """Texts of which the last letters say what they are."""
    rng = np.random.default_rng(0)
    breaks = np.tile([False, True], n)
    texts = tuple(
        f"{''.join(rng.choice(list('abcd '), 6))} {'zz' if bad else 'oo'}" for bad in breaks
    )
    return Cases(tuple(one for one in principles(n) for _ in range(2)), texts, breaks)


def test_the_state_of_the_last_token_is_read_and_nothing_else() -> None:
    model, known = tiny("llama"), worded()
    scorer = fit_linear(model, known)
    pairs = known.pairs()[:7]
    states = [_state(model, pair, scorer.layer) for pair in pairs]
    train = np.flatnonzero(parts_of(known, 0)["train"])
    np.testing.assert_allclose(
        scorer.log_odds(pairs),
        scorer.fitted.decision_function(np.array(states)),
        rtol=1e-3,
        atol=1e-3,
    )
    assert scorer.about["n"] == len(train)
    by_hand = make_pipeline(
        StandardScaler(), LogisticRegression(C=scorer.about["C"], max_iter=2000)
    )
    every = np.array(
        [_state(model, pair, scorer.layer) for pair in (known.pairs()[i] for i in train)]
    )
    by_hand.fit(every, known.breaks[train])
    np.testing.assert_allclose(
        by_hand.decision_function(np.array(states)), scorer.log_odds(pairs), rtol=0.05, atol=0.05
    )


def _state(model, pair, layer: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    text, read = PROMPT.format(principle=pair[0], text=pair[1]), []
    handle = model.decoder.layers[layer].register_forward_hook(
        lambda module, args, out: read.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model.model(torch.tensor([model.tokenizer(text)["input_ids"]]))
    handle.remove()
    return read[0][0, -1].float().numpy()


def test_what_is_planted_is_learnt_and_shuffled_labels_are_not() -> None:
    model, known = tiny("llama"), worded(120)
    found = calibrate(fit_linear(model, known), known, draws=200)
    assert found.usable and found.overall["auroc"] > 0.8
    rng = np.random.default_rng(1)
    mixed = replace(known, breaks=rng.permutation(known.breaks))
    nothing = calibrate(fit_linear(model, mixed), mixed, draws=200)
    assert not nothing.usable


def test_only_the_training_principles_are_learnt_from() -> None:
    model, known = tiny("llama"), worded()
    first = fit_linear(model, known)
    other = parts_of(known, 0)
    turned = known.breaks.copy()
    turned[other["calibrate"] | other["test"]] ^= True
    again = fit_linear(model, replace(known, breaks=turned))
    pairs = known.pairs()
    np.testing.assert_array_equal(first.log_odds(pairs), again.log_odds(pairs))
    assert first.identity == again.identity
    turned = known.breaks.copy()
    turned[np.flatnonzero(other["train"])[:4]] ^= True
    assert fit_linear(model, replace(known, breaks=turned)).identity != first.identity


def test_batches_and_empty_texts() -> None:
    model, known = tiny("llama"), worded()
    scorer = fit_linear(model, known)
    pairs = [("One should.", "a"), ("One should.", "a longer one " * 3), ("One should.", " ")]
    found = scorer.log_odds(pairs)
    assert np.isnan(found[2]) and np.isfinite(found[:2]).all()
    alone = [scorer.log_odds([pair])[0] for pair in pairs[:2]]
    np.testing.assert_allclose(found[:2], alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="too few principles"):
        fit_linear(model, cases(8))


def mnli(folder: Path, labels: dict[int, str]) -> Path:
    """A tiny classifier of pairs with a tokenizer of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = sorted({*"abcdefghijklmnopqrstuvwxyzTO:.", "thing"})
    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_entailment_is_held_against_contradiction(tmp_path: Path) -> None:
    folder = mnli(tmp_path / "nli", {0: "CONTRADICTION", 1: "neutral", 2: "entailment"})
    scorer = load_entailment(folder, device="cpu")
    pairs = [("One should.", "he ran off"), ("One should not.", "a"), ("One should.", "")]
    found = scorer.log_odds(pairs)
    for (principle, text), said in zip(pairs[:2], found, strict=False):
        batch = scorer.tokenizer(text, HYPOTHESIS.format(principle=principle), return_tensors="pt")
        with torch.no_grad():
            logits = scorer.model(**batch).logits[0]
        assert said == pytest.approx(float(logits[2] - logits[0]), abs=1e-5)
    assert np.isnan(found[2])
    assert scorer.identity["nli"] == "nli" and len(scorer.identity["weights"]) == 32


def test_what_is_no_entailment_model_is_refused(tmp_path: Path) -> None:
    other = mnli(tmp_path / "other", {0: "good", 1: "bad", 2: "ugly"})
    with pytest.raises(ModelError, match=r"no MNLI model.*good, bad, ugly"):
        load_entailment(other)
    with pytest.raises(ModelError, match="holds no model"):
        load_entailment(tmp_path / "none")


def test_a_scorer_is_named_by_its_kind_and_model(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "m")
    known = worded()
    judge = scorer_of(f"judge={folder}", known, device="cpu")
    assert isinstance(judge, Judge) and judge.name == "judge m"
    linear = scorer_of(f"linear={folder}", known, device="cpu")
    assert linear.name.startswith("linear m resid_post.")
    words = scorer_of("words", known)
    assert words.name == "bag of words"
    assert calibrate(words, known, draws=100).usable
    by_words = calibrate(words, known, draws=100).baselines["bag of words"]
    assert by_words["scorer_above"] == 0 == by_words["scorer_above_low"]
    for wrong in ("smollm2-135m", "guess=m", "judge=", ""):
        with pytest.raises(UsageError, match="is no scorer"):
            scorer_of(wrong, known)
