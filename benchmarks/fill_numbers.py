"""Put the measured figures into the README and the docs, from the results files.

    python benchmarks/fill_numbers.py [--check]

Replaces what stands between `<!-- numbers: NAME -->` and `<!-- /numbers -->`. With --check nothing
is written: it fails where the page says something else than the results.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "howto" / "plan.md",
    ROOT / "docs" / "howto" / "autoencoders.md",
    ROOT / "docs" / "howto" / "steering.md",
    ROOT / "docs" / "howto" / "evaluate.md",
    ROOT / "docs" / "howto" / "steering-page.md",
    ROOT / "docs" / "howto" / "consensus.md",
    ROOT / "docs" / "howto" / "elicit.md",
    ROOT / "docs" / "howto" / "orient.md",
    ROOT / "docs" / "howto" / "pluralism.md",
    ROOT / "docs" / "howto" / "communities.md",
    ROOT / "docs" / "explanation" / "design.md",
    ROOT / "docs" / "explanation" / "two-modes.md",
    ROOT / "docs" / "explanation" / "statistics.md",
)


def _layers(found: dict[str, Any], mode: str, measure: str, category: str) -> list[float]:
    """Return a measure in the layers that the confound is named in."""
    return [
        row["value"]
        for row in found["measures"]
        if (row["mode"], row["measure"], row["category"]) == (mode, measure, category)
        and row["layer"] in found["confounded_layers"]
    ]


def confound() -> str:
    """Say what the published pooling and the audited one show in the confounded layers."""
    found = json.loads((RESULTS / "confound.json").read_text())
    layers = found["confounded_layers"]
    span = lambda values: f"{min(values):.2f} to {max(values):.2f}"  # noqa: E731
    axes = sorted({r["category"] for r in found["measures"] if r["measure"] == "opposed_cosine"})
    audited = [
        value
        for axis in axes
        if axis != "mean"
        for value in _layers(found, "audited", "opposed_cosine", axis)
    ]
    return (
        f"On {found['texts']:,} texts of Social-Chemistry-101 and {found['model']}, the published "
        f"pooling\nputs opposed categories at a mean cosine of "
        f"{span(_layers(found, 'li2026', 'opposed_cosine', 'mean'))} in layers "
        f"{layers[0]} to {layers[-1]},\nwhere likeness to a category goes with text length at a "
        f"rank correlation of\n"
        f"{span(_layers(found, 'li2026', 'length_correlation', 'mean_abs'))}. Without the sink the "
        f"five cosines there lie between {min(audited):.2f} and {max(audited):.2f}."
    )


def layers() -> str:
    """Return a table of layers: what both modes show, and how large the sink is."""
    found = json.loads((RESULTS / "confound.json").read_text())
    value = {
        (r["mode"], r["measure"], r["category"], r["layer"]): r["value"] for r in found["measures"]
    }
    columns = (
        ("audited", "sink_ratio", "all"),
        ("li2026", "length_share", "all"),
        ("li2026", "opposed_cosine", "mean"),
        ("li2026", "length_correlation", "mean_abs"),
        ("audited", "length_share", "all"),
        ("audited", "opposed_cosine", "mean"),
        ("audited", "length_correlation", "mean_abs"),
    )
    lines = [
        "| layer | sink ratio | li2026: share of variance | cosine | with length "
        "| audited: share of variance | cosine | with length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {layer} | " + " | ".join(f"{value[*column, layer]:.2f}" for column in columns) + " |"
        for layer in sorted({r["layer"] for r in found["measures"]})
    ]
    return "\n".join(lines)


def extraction() -> str:
    """Say how fast extraction is beside what else reads hidden states."""
    found = json.loads((RESULTS / "extraction-bf16.json").read_text())
    exact = json.loads((RESULTS / "extraction-fp32.json").read_text())
    speed, ratios, peak = found["texts_per_second"], found["ratios"], found["peak_gb"]
    best = found["best_sorted"]
    size = best.removeprefix("sorted-")
    read = found["tokens"] / found["tokens_unshared"]
    others = {
        "padded ones": "padded-64",
        "TransformerLens' bridge": "bridge-64",
    }
    beside = ", ".join(f"{ratios[key]:.2f} times {name}" for name, key in others.items())
    return (
        f"On {_cores(found)}, {found['model']} in {found['dtype']}, all layers "
        f"and {len(found['poolings'])} poolings, checked and written:\n"
        f"**{speed['ours']:.0f} texts a second**, {found['ratio']:.2f} times transformers with "
        f"length-sorted batches of {size} ({speed[best]:.0f}),\n{beside}; peak memory "
        f"{peak['ours']:.1f} GB ({peak[best]:.1f} GB).\nTexts begin alike, so {read:.0%} of the "
        f"tokens are read, at {found['gflops']} GFLOP/s where matrix products alone\nreach "
        f"{found['peak_gflops']}. In fp32: {exact['texts_per_second']['ours']:.0f} texts a "
        f"second, {exact['ratio']:.2f} times transformers.\n{found['texts']:,} texts "
        f"({exact['texts']:,} in fp32), medians of {found['repeats']} alternating runs."
    )


def extraction_gpu() -> str:
    """Say how fast extraction is on a GPU, where it is bound by what is written."""
    found = json.loads((RESULTS / "extraction-bf16-cuda.json").read_text())
    speed, best = found["texts_per_second"], found["best_sorted"]
    ours = found["runs"]["ours"][0]
    return (
        f"On an {found['machine']['gpu']}, a model of random weights "
        f"(`benchmarks/random_model.py`), {found['texts']:,} texts,\n{len(found['poolings'])} "
        f"poolings, {ours['flops'] / 1e12:.0f} TFLOP, medians of {found['repeats']} alternating "
        f"runs: **{speed['ours']:,.0f} texts a second**, the\n{ours['bytes'] / 1e9:.1f} GB that "
        f"are written and checksummed among it, with {found['gpu_gb']['ours']:.1f} GB of the card; "
        f"transformers in length-sorted\nbatches of {best.removeprefix('sorted-')}, which keeps "
        f"them in memory and writes nothing, {speed[best]:,.0f} with {found['gpu_gb'][best]:.1f} "
        f"GB:\n**{found['ratio']:.2f} times**. Ours multiplies at "
        f"{found['gflops'] / found['peak_gflops']:.0%} of what the card can alone: texts as short "
        f"as these take more\nGPU-hours than are planned above."
    )


def plan() -> str:
    """Say how near a calibrated plan comes to a real run."""
    found = json.loads((RESULTS / "plan.json").read_text())
    return (
        f"So planned, {found['texts']:,} texts were to take {found['planned_seconds']:.0f} s on "
        f"{_cores(found)} with {found['model']}, and took\n"
        f"{found['seconds']:.0f} s; {found['planned_bytes'] / 1e6:,.0f} MB were planned and "
        f"{found['bytes'] / 1e6:,.0f} MB written (`python benchmarks/plan.py`)."
    )


def sae() -> str:
    """Say what an autoencoder of real texts reaches, and what features it has."""
    found = json.loads((RESULTS / "sae-real.json").read_text())
    recipe, judged, theirs = found["recipe"], found["reconstruction"], found["sae_lens"]
    loss = found["loss"]
    return (
        f"On {found['model']}, layer {found['layer']}, {found['tokens']:,} tokens of actions and "
        f"{recipe['steps']:,} steps ({recipe['arch']}, k {recipe['k']},\n{recipe['expansion']} "
        f"times as many features): on held-out texts it explains "
        f"{judged['explained_variance']:.3f} of the\nvariance; {judged['dead']:.0%} of its "
        f"features are active in none of them. Spliced in, it recovers "
        f"{found['recovered_from_zero']:.3f} of the loss\nthat zeros cost and "
        f"{found['recovered_from_mean']:.3f} of what the mean costs. SAELens' evaluation, token 0 "
        f"too: {theirs['explained_variance']:.3f} of the\nvariance, {theirs['ce_loss_score']:.3f} "
        f"of the loss.\nThe loss is {loss['clean']:.3f} as it is and {loss['spliced']:.3f} "
        f"spliced: a share about 1 says that these short texts lose nothing, not\nthat running "
        f"text wouldn't.\n\n{_moral_features(found['features'])}"
    )


def _moral_features(features: dict[str, Any]) -> str:
    """Say which features were found, dictionary by dictionary."""
    random, others = features["null_random_dictionary"], features["others_as_dense"]
    untaught, again = features["null_shuffled_activations"], features["found_again"]
    by_pole = ", ".join(f"{pole} {n}" for pole, n in features["replicated_by_pole"].items())
    causal, li = features["causal"], features["li2026"]
    shuffled = li["null_shuffled_texts"]
    r = causal["readout_r"].values()

    def held(of: dict[str, Any]) -> str:
        median = of["specificity_median"]
        specific = "" if median is None else f"{median:.2f}"
        return (
            f"{of['replicated']:,} | {specific} | {of['specific']:,} | {of['in_both_halves']:,} | "
            f"{_up(of['slope'])}"
        )

    def chosen(of: dict[str, Any]) -> str:
        return f"{of['chosen']:,} of {of['tested']:,}"

    def moved(of: dict[str, Any]) -> str:
        median = of["median"]
        how = "" if median is None else f" ({median:.3f})"
        return f"{of['down']} of {of['features']}{how}"

    def published(of: dict[str, int]) -> str:
        return f"{of['mono']:,}, {of['strict']:,}"

    def most(name: str) -> int:
        return max(twin[name] for twin in shuffled)

    mono = [twin["mono"] for twin in shuffled]

    return "\n".join(
        [
            f"Features are tested by {features['train']:,} texts and tried on "
            f"{features['held_out']:,} others:",
            "",
            "| | chosen, of tested | hold | median specificity | at least 0.5 | in both halves "
            "| slope surely above 0, of chosen | ablated, surely down (median) "
            "| li2026: mono, strict |",
            "|---|---|---|---|---|---|---|---|---|",
            f"| this autoencoder | {chosen(features)} | {held(features)} | {moved(causal)} | "
            f"{published(li)} |",
            f"| a random dictionary | {chosen(random)} | {held(random)} | "
            f"{moved(causal['random_dictionary'])} | {published(li['null_random_dictionary'])} |",
            f"| one of shuffled activations | {chosen(untaught)} | {held(untaught)} | | "
            f"{published(li['null_shuffled_activations'])} |",
            f"| others as dense, on the same poles, of {others['tested']:,} and "
            f"{li['others_as_dense']['features']:,} | | {held(others)} | "
            f"{moved(causal['others_as_dense'])} | {published(li['others_as_dense'])} |",
            f"| shuffled poles, or texts, at most | {max(features['null_shuffled_chosen'])} | | | "
            f"| | | | {most('mono'):,}, {most('strict'):,} |",
            "",
            f"By the paper's rules {li['mono']:,} are mono-semantic; with whole texts shuffled "
            f"{min(mono):,} to {max(mono):,} still are, and\n"
            f"{li['null_random_dictionary']['mono']:,} of the random dictionary's.",
            f"By pole, of those that hold: {by_pole}.",
            f"The features with the largest t of the ten poles are "
            f"{features['strongest_of_poles']['features']} different ones, "
            f"{features['strongest_of_poles']['chosen']} of them chosen; of the random dictionary "
            f"{random['strongest_of_poles']['features']}, "
            f"{random['strongest_of_poles']['chosen']} chosen.",
            f"The nearest direction of another seed has a median cosine of {again['hold']:.2f} to "
            f"those that hold, {again['all']:.2f} to all features and "
            f"{again['random_directions']:.2f} to random directions.",
            f"Ablations move read-outs in standard deviations; the read-outs themselves correlate "
            f"with typicality at {min(r):.2f} to {max(r):.2f}.",
        ]
    )


def _up(slope: dict[str, Any]) -> str:
    """Return how many slopes are surely above 0, of how many."""
    return f"{slope['up']} of {slope['features']}"


def sae_speed() -> str:
    """Say how fast the sparse step is beside SAELens' own, with and without dead features."""
    found = json.loads((RESULTS / "sae-topk.json").read_text())
    rate = {}
    for name in ("ours", "stock"):
        blocks = [
            (rate, dead)
            for run in found["runs"]
            for rate, dead in zip(run[name]["rates"], run[name]["dead"], strict=True)
        ]
        rate[name] = [
            statistics.median(value for value, dead in blocks if (dead > 0) == some)
            for some in (False, True)
        ]
    alive, dying = (ours / stock for ours, stock in zip(rate["ours"], rate["stock"], strict=True))
    return (
        f"Inside SAELens' trainer, {found['d_in']} to {found['d_sae']:,}, k {found['k']}, batches "
        f"of {found['batch']:,}, on {_cores(found)}: {rate['ours'][0]:,.0f} "
        f"activations a\nsecond, {alive:.1f} times SAELens' own step in fp32, and {dying:.1f} "
        f"times while most features are dead and being revived.\n{_sae_speed_on_a_gpu()}\n\n"
        f"{_sae_quality()}"
    )


def _sae_quality() -> str:
    """What both explain of held-out texts after as many steps from the same weights."""
    measures = ("explained_variance", "recovered_from_zero", "recovered_from_mean")
    lines = []
    for name in ("topk", "topk-1500", "batchtopk"):
        path = RESULTS / f"sae-{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        of = found["held_out"]
        for seed, ours, stock in zip(found["seeds"], of["ours"], of["stock"], strict=True):
            cells = [f"{ours[name]:.4f}, {stock[name]:.4f}" for name in measures]
            dead = found.get("dead_after", 100)
            what = f"`{found['arch']}`, {found['steps']:,}, {dead}, {seed}"
            lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(
        [
            "From the same weights, on texts that were held out, ours and SAELens' own (dead, and "
            "revived, is a\nfeature that wasn't active for so many steps):",
            "",
            "| architecture, steps, dead after, seed | variance explained "
            "| loss recovered of zeros | of the mean |",
            "|---|---|---|---|",
            *lines,
        ]
    )


def _sae_speed_on_a_gpu() -> str:
    """The same on a GPU, wider."""
    found = json.loads((RESULTS / "sae-topk-cuda.json").read_text())
    rate = found["samples_per_second"]
    return (
        f"On an {found['machine']['gpu']}, {found['d_in']:,} to {found['d_sae']:,}, states of "
        f"a model of random weights, no feature dead yet:\n{rate['ours']:,} activations a second, "
        f"{found['ratio']:.1f} times SAELens' own step in fp32 (medians of blocks over "
        f"{found['steps']} steps)."
    )


def _row(rows: list[dict[str, Any]], arm: str, name: str, layer: int | None = None) -> str:
    """Return a measure of an arm with its interval."""
    row = next(
        r
        for r in rows
        if (r["arm"], r["name"]) == (arm, name) and (layer is None or r["layer"] == layer)
    )
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def _over_control(found: dict[str, Any], table: str, name: str, layer: int) -> str:
    """Return what steering has over the best control."""
    rows = found["over_best_control"][table]
    row = next(r for r in rows if (r["name"], r["layer"]) == (name, layer))
    gain = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
    doubt = "" if row["surely"] else ", not surely over all"
    return f"{gain} ({row['control']}{doubt})"


def _defects(about: dict[str, Any]) -> str:
    """Say what the published loss asks for in vain."""
    shares = about["defects"]
    return (
        f"Of its targets above 0, {shares['unreachable']:.0%} lie below a half, where its sigmoid "
        f"never is; of its pairs {shares['tied']:.0%} tie, and of the others "
        f"{shares['in_margin']:.0%} are inside the margin at the end; "
        f"{shares['other_axis']:.0%} of what counts for an axis' contrast isn't tagged with it."
    )


def _of_topology(mode: str) -> str:
    """Say what tuning does to held-out texts, at the layer and at the last one."""
    found = json.loads((RESULTS / f"topology-{mode}.json").read_text())
    rows, later, about = found["geometry"], found["survival"], found["about"]
    last = max(row["layer"] for row in later)
    null = next(
        r["null_high"] for r in rows if (r["arm"], r["name"]) == ("steered", "category_rdm")
    )
    beside = [
        r["value"]
        for r in rows
        if r["name"] == "category_rdm" and r["arm"] not in ("steered", "unsteered")
    ]
    n = next(r["n"] for r in rows if r["name"] == "category_rdm")

    measures = {
        "category_rdm": "`category_rdm`",
        "opposed_cosine": "opposed cosine (lower is better)",
        "auroc": "AUROC",
        "spearman_given_length": "gradient given length",
        "r2": "R2 of the ten dimensions",
    }
    arms = ("unsteered", "steered", "shuffled")
    lines = [
        f"`{mode}` on {found['model']}, layer {about['layer']}: {about['features']:,} of "
        f"{about['of']:,} features tuned; {n:,} held-out texts. The match of categories has a null "
        f"up to {null:.3f} and, under the controls, {min(beside):.3f} to {max(beside):.3f}.",
        "",
        "| measure, layer | before | after | tuned to shuffled labels "
        "| gain over the best control [interval] |",
        "|---|---|---|---|---|",
    ]

    def line(table: str, name: str, layer: int, said: str) -> str:
        cells = [_row(found[table], arm, name, layer) for arm in arms]
        cells.append(_over_control(found, table, name, layer))
        return f"| {said} | " + " | ".join(cells) + " |"

    for name, said in measures.items():
        lines.append(line("geometry", name, about["layer"], f"{said}, {about['layer']}"))
    lines.append(
        line("survival", "category_rdm", last, f"{measures['category_rdm']}, {last} (the last)")
    )
    twin = next(r for r in rows if (r["arm"], r["name"]) == ("shuffled", "category_rdm"))
    if twin["gain_low"] <= 0:
        lines += ["", f"Shuffled labels match as well: what `{mode}` reaches isn't of the labels."]
    if mode == "li2026":
        lines += ["", _defects(about)]
    r = found["features"]["median_r_inverse_length"]
    lines += [
        "",
        f"A tuned feature's activity goes with 1 / length of a text at |r| {r['tuned']:.2f}, "
        f"any feature's at {r['all']:.2f} (medians).",
    ]
    if seeds := found["seeds"]:
        lines += ["", _over_seeds([rows, *seeds.values()], measures)]
    return "\n".join(lines)


def _over_seeds(runs: list[list[dict[str, Any]]], measures: dict[str, str]) -> str:
    """Say how far what is reached hangs on the seed."""

    def span(arm: str, name: str) -> str:
        values = [
            next(
                r["value"]
                for r in rows
                if (r["arm"], r["name"]) == (arm, name) and r["category"] in ("all", "mean")
            )
            for rows in runs
        ]
        return f"{min(values):.3f} to {max(values):.3f}"

    said = "; ".join(
        f"{measure} {span('steered', name)}, shuffled {span('shuffled', name)}"
        for name, measure in measures.items()
    )
    return f"Tuned with {len(runs)} seeds, after: {said}."


def topology() -> str:
    """Say what both modes' tuning does."""
    return "\n\n".join(_of_topology(mode) for mode in ("geometry", "li2026"))


def steering() -> str:
    """Say in short what tuning does to held-out texts, there and at the last layer."""
    found = json.loads((RESULTS / "topology-geometry.json").read_text())
    rows, later, about = found["geometry"], found["survival"], found["about"]
    last = max(row["layer"] for row in later)
    here, there = (
        _over_control(found, table, "category_rdm", layer)
        for table, layer in (("geometry", about["layer"]), ("survival", last))
    )
    return (
        f"On {found['model']}, layer {about['layer']}, tuning {about['features']:,} features takes "
        f"the likeness of the ten categories' geometry to\nthe human one from "
        f"{_row(rows, 'unsteered', 'category_rdm')} to {_row(rows, 'steered', 'category_rdm')} on "
        f"held-out texts, and from\n{_row(later, 'unsteered', 'category_rdm', last)} to "
        f"{_row(later, 'steered', 'category_rdm', last)} at layer {last}, the last. Over the best "
        f"control\nthat is {here} and {there}. {_are_texts_better()}"
    )


def _are_texts_better() -> str:
    """Say in a sentence what the evaluation came to."""
    found = json.loads((RESULTS / "evaluation.json").read_text())
    (judge,), (about,) = found["judges"], found["interventions"]
    if found["verdict"]["kind"] != "unknown":
        return str(found["verdict"]["said"])
    return (
        f"Whether texts are better isn't known, of a fit of {about['features']:,} features that "
        f"was evaluated: the judge at hand, the model itself, is right in "
        f"{_between(judge['accuracy'])} of known pairs, both orders counted."
    )


def _minutes(found: dict[str, Any]) -> str:
    """Say how long a whole run took, where it was timed."""
    seconds = found["seconds"]
    if seconds is None:
        return ""
    return f"Texts, verdicts and side effects took {seconds / 60:.0f} minutes on {_cores(found)}. "


def evaluation() -> str:
    """Say what an evaluation of the tuned intervention found, arm by arm."""
    found = json.loads((RESULTS / "evaluation.json").read_text())
    (judge,), (about,) = found["judges"], found["interventions"]
    checked, sampling = judge["accuracy"], found["options"]["sampling"]
    chance = _effect(found, "unsteered", "accuracy")["chance"]
    said = {
        "KL": "KL per token, benign requests",
        "loss": "loss of neutral text",
        "accuracy": f"knowledge, chance {chance:.2f}",
        "lead of the better": "lead of the better answer of known pairs, nats per token",
    }
    heads = [head if name == "KL" else f"{head}, change" for name, head in said.items()]
    lines = [
        f"{found['model']['name']}, layer {about['layer']}, {about['features']:,} features of "
        f"{about['of']:,} tuned; {found['prompts']['n']} prompts, "
        f"{sampling['max_new_tokens']} new tokens, {len(found['options']['seeds'])} seeds, the "
        f"model itself as the judge over HTTP. {_minutes(found)}{found['verdict']['said']}",
        "",
        "| arm | win rate, both orders | counted as published | verdicts missing "
        f"| states are changed by | {' | '.join(heads)} |",
        "|---|---|---|---|---|" + "---|" * len(heads),
    ]
    for arm, at in found["arms"].items():
        judged = {r["measure"]: r for r in found["judged"] if r["arm"] == arm}
        won, published = judged["win rate"], judged["win rate as published"]
        cells = [_between(won), f"{published['value']:.2f}"]
        cells.append(f"{won['missing']} of {won['missing'] + won['pairs']}")
        cells.append(f"{at['change']['value']:.1%}")
        for measure in said:
            row = _effect(found, arm, measure, at["strength"])
            cells.append("" if row is None else _changed(row))
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            "A change is from the unsteered model, in the same resamples of the same items; that "
            "of states is over their length, on the prompts that are judged.",
            *(f"{one[0].upper()}{one[1:]}." for one in found["unlike_arms"]),
            "",
            f"On {checked['pairs']} pairs whose better answer is known the judge is right in "
            f"{_between(checked)} of both orders; it leans to the answer that is shown first by "
            f"{_between(judge['position_bias'])} (0.50 is always), and stands by its verdict in "
            f"{judge['self_consistency']['value']:.0%} of pairs when they are turned. The "
            f"same texts counted as published, of the verdicts with the model as it is shown first "
            f"alone, have win rates of {min(_published(found)):.2f} to "
            f"{max(_published(found)):.2f}.",
        ]
    )


def consensus() -> str:
    """Say what a consensus fit takes."""
    found = json.loads((RESULTS / "consensus.json").read_text())
    return (
        f"{found['items']:,} items of {found['models']} models under {found['theories']} theories, "
        f"on {_cores(found)}: a fit takes {found['seconds']['exact']:.2f} s\n"
        f"(binned {found['seconds']['binned']:.2f} s, moments {found['seconds']['moments']:.2f} s; "
        f"medians of {found['repeats']}), the command with its {found['shuffles']} shuffles and\n"
        f"{found['draws']} resamples {found['whole_seconds']:.0f} s "
        f"(`python benchmarks/consensus.py`)."
    )


def consensus_people() -> str:
    """Say what a panel of a small model is worth beside people, and what aligning it does."""
    found = json.loads((RESULTS / "consensus-people.json").read_text())
    lines = []
    for name, what in (
        ("two actions", "Scruples, which of two is more acceptable"),
        ("one action", "ETHICS' justice"),
    ):
        alone, drawn = (
            found[f"{name}, {which}"] for which in ("no drawn judge", "three drawn judges")
        )
        theory = alone["votes"][0]["theory"]
        votes = {row["source"]: row for row in drawn["votes"] if row["theory"] == theory}
        known = [row for source, row in votes.items() if source.startswith("drawn")]
        real = [
            row
            for source, row in votes.items()
            if source not in ("consensus", "mean of the models") and row not in known
        ]
        low, high = (f(row["auroc"] for row in real) for f in (min, max))
        best = max(row["auroc"] for row in known)
        said = "is" if alone["supported"] else "is not"
        lines.append(
            f"{what} ({votes['consensus']['n']} of them): SmolLM2's judges, VADER and length tell "
            f"the majority of people by an AUROC of {low:.2f} to {high:.2f}, and a consensus of "
            f"them {said} supported. With three judges beside them that are drawn to know the "
            f"majority, of which the best has {best:.2f}, the consensus has "
            f"**{_auroc(votes['consensus'])}** and the mean {_auroc(votes['mean of the models'])}."
        )
    done = found["align"]
    js = {row["arm"]: row for row in done["arms"] if row["measure"] == "js"}
    falls = "falls" if done["helps"] else "doesn't surely fall"
    gains = "; ".join(
        f"{arm} {js[arm]['gain']:+.4f} [{js[arm]['gain_low']:+.4f}, {js[arm]['gain_high']:+.4f}]"
        for arm in ("rows", "random rows", "rows and head", "head", "shift")
    )
    about = done["summary"]
    lines.append(
        f"SmolLM2 trained towards the last of these consensuses by the rows of "
        f"{', '.join(f'`{token.strip()}`' for token in about['tokens'])}: on "
        f"{about['items']['test']} held-out items the divergence {falls} from "
        f"{js['before']['value']:.4f} ({gains})."
    )
    r2 = about["head"]["r2"]
    if r2 is None or r2 < 0.1:
        lines[-1] += (
            f" But the head gives the model's own scores with an r2 of "
            f"{'none' if r2 is None else f'{r2:.2f}'}, hardly better than their mean: what it "
            "reads isn't the model's judgement, and none of this says anything of the model."
        )
    else:
        lines[-1] += f" The head gives the model's own scores with an r2 of {r2:.2f}."
    if (asked := about.get("asked")) is not None:
        lines[-1] += (
            f" Asked again itself, by letters, its divergence is {asked['js']:.4f} and changes by "
            f"{asked['gain']:+.4f} [{asked['gain_low']:+.4f}, {asked['gain_high']:+.4f}]."
        )
    others = [row["word"] for row in done["elsewhere"] if not row["shares_token"]]
    lines[-1] += (
        f" No trained token is in a question that names {', '.join(others)}"
        f"{'' if about['neutral_tokens_trained'] else ', nor in the neutral text'}: nothing can "
        "change there, and that nothing does shows nothing."
    )
    wrapped = "\n\n".join(textwrap.fill(line, 110, break_on_hyphens=False) for line in lines)
    return f"{wrapped}\n\n(`{found['command']}`)"


def elicitation() -> str:
    """Return how often the first and the last prompts lead a real model astray, by two scorers."""
    found = json.loads((RESULTS / "elicitation.json").read_text())
    summary, minutes = found["summary"], sum(found["seconds"].values()) / 60
    rounds = summary["rounds"]
    value = {
        (row["scorer"], row["iter"], row["measure"]): row
        for row in found["measures"]
        if row["foundation"] == row["pole"] == "all"
    }
    change = {
        (row["scorer"], row["measure"]): row
        for row in found["changes"]
        if row["foundation"] == row["pole"] == "all"
    }
    names = {
        "evr": "EVR",
        "mvp": "MVP",
        "apv": "APV",
        "apv corrected": "APV, errors taken out",
        "apv of another principle": "APV of another principle",
    }
    lines = [
        f"| | | round {rounds[0]} | round {rounds[-1]} | the last less the first |",
        "|" + "---|" * 5,
    ]
    for scorer, about in summary["scorers"].items():
        for measure, name in names.items():
            cells = [_interval(value[scorer, number, measure]) for number in rounds]
            cells.append(_interval(change[scorer, measure], "+.2f"))
            of = f"{scorer}: {about['name']}" if measure == "evr" else ""
            lines.append(f"| {of} | {name} | {' | '.join(cells)} |")
    said = []
    for scorer, about in summary["scorers"].items():
        of, beside = about["calibration"]["overall"], about["calibration"]["baselines"]
        words = beside["bag of words"]
        said.append(
            f"The scorer that {'reports' if scorer == 'report' else 'searched'}, {about['name']}, "
            f"tells breaking from keeping on held-out Moral Stories by an AUROC of "
            f"{_named(of, 'auroc')}"
            + (
                f", {_named(words, 'scorer_above', '+.2f')} above a bag of words"
                if scorer == "report"
                else ""
            )
            + "."
        )
    surely = _verdict(change["report", "apv"])
    said.append(
        f"From round {rounds[0]} to round {rounds[-1]} the share of breaking completions {surely} "
        "by the scorer that reports."
    )
    bleu = summary["self_bleu"]["prompts"]
    own, other = (value["report", rounds[-1], name] for name in ("apv", "apv of another principle"))
    if own["low"] <= other["value"] <= own["high"]:
        said.append(
            f"But held against a principle that isn't theirs the same completions break it as "
            f"often ({_interval(other)}): what this scorer hears is tone, hardly the principle."
        )
    judged = summary["endorsed"]
    said.append(
        f"Asked about its own completions of the last round, the model calls "
        f"{_interval(judged['of broken'])} of those broken that the scorer calls so, and "
        f"{_interval(judged['of kept'])} of the others."
    )
    tried = found["principles"] + found["without"]
    said.append(
        f"{found['without']} of {tried} principles have no beginning that may be used; "
        f"{found['unused'].get('breaks it by itself', 0)} beginnings weren't, because the scorer "
        "that searched said that they break the principle by themselves. "
        f"{found['moved']} principles have another beginning in the end; "
        f"Self-BLEU of the beginnings {' and '.join(f'{x:.0f}' for x in bleu.values())}. "
        f"K = {summary['k']} fresh completions of each prompt. The whole run took {minutes:.0f} "
        f"minutes on {_cores(found)} "
        f"({', '.join(f'{name} {s / 60:.0f}' for name, s in found['seconds'].items())}; "
        "`python benchmarks/elicitation.py MORAL_STORIES FOLDER`)."
    )
    return "\n".join([*lines, "", *textwrap.wrap(" ".join(said), 110)])


def repair() -> str:
    """Return what each way of repair does on a real model."""
    found = json.loads((RESULTS / "elicitation-repair.json").read_text())
    rows = [row for row in found["arms"] if row["measure"] == "apv"]
    lines = ["| arm | APV | less that of `none` | EVR |", "|" + "---|" * 4]
    evr = {row["arm"]: row for row in found["arms"] if row["measure"] == "evr"}
    lines += [
        f"| `{row['arm']}` | {_interval(row)} | {_gain(row)} | {_interval(evr[row['arm']])} |"
        for row in rows
    ]
    (trained,) = [row for row in found["trained_less_written"] if row["measure"] == "apv"]
    first, last = found["rewards"][0], found["rewards"][-1]
    helping = [f"`{row['arm']}`" for row in rows if (row["gain_high"] or 0) < 0]
    told = (
        f"On {found['measured_on']} prompts of principles that nothing was learnt from "
        f"({found['learnt_from']} were learnt from). "
        + (
            f"Surely fewer completions break the principle after {', '.join(helping)}. "
            if helping
            else "After no arm do surely fewer completions break the principle. "
        )
        + f"Trained less untrained writer: {_gain(trained)}. On the prompts that it learnt from, "
        f"by the scorer that it learnt from, the writer's instructions kept the principle by "
        f"{_interval(first)} before and {_interval(last)} after {last['round']} rounds "
        f"({_gain(last)}). (`python benchmarks/elicitation_repair.py MORAL_STORIES FOLDER`)"
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def _stands(row: dict[str, Any]) -> str:
    """Say how something stands to what it is less of; the interval decides the word."""
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return "can't be told from"
    return "improves on" if row["low"] > 0 else "is surely worse than"


def communities() -> str:
    """Return how a real model's answers lie to those of 32 countries, beside trivial guesses."""
    found = json.loads((RESULTS / "pluralism-measure.json").read_text())
    of = {(row["community"], row["measure"]): row for row in found["measures"]}
    every, mean, summary = "all answers", "mean of communities", found["summary"]
    lines = ["| | over answers | over communities |", "|" + "---|" * 3]
    for name, row in found["reference"].items():
        if not name.startswith("noise"):
            lines.append(f"| `{name}` | {row['items']:.3f} | {row['communities']:.3f} |")
    own = [
        {"value": 1 - row["value"], "low": 1 - row["high"], "high": 1 - row["low"]}
        for row in (of[who, "js distance"] for who in (every, mean))
    ]
    lines.append(f"| **SmolLM2** | {' | '.join(_interval(row, '.3f') for row in own)} |")
    each = sorted(
        (row["value"], who)
        for (who, measure), row in of.items()
        if measure == "js distance" and who not in (every, mean)
    )
    (low, nearest), (high, farthest) = each[0], each[-1]
    unread = sum(n for why, n in summary["statuses"].items() if why != "ok")
    told = (
        f"1 - Jensen-Shannon distance, base 2, on {summary['questions']:,} questions, "
        f"{summary['answers']:,} answers of {len(summary['communities'])} countries"
        + (f" ({unread:,} not read)" if unread else "")
        + ". SmolLM2-135M-Instruct, read by the options' letters under several orders, "
        f"{_stands(of[every, 'skill'])} the country-blind guess: skill "
        f"{_interval(of[every, 'skill'], '+.2f')}; mode agreement "
        f"{_interval(of[every, 'mode agreement'])}; its entropy is "
        f"{_interval(of[every, 'entropy ratio'])} times the people's. Nearest is {nearest} "
        f"({low:.3f} away), farthest {farthest} ({high:.3f}). {found['seconds'] / 60:.0f} minutes "
        f"on {_cores(found)} in {summary['model']['dtype'].removeprefix('torch.')} "
        "(`python benchmarks/pluralism.py DISTRIBUTIONS --part measure`)."
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def communities_told() -> str:
    """Return whether a real model answers as the countries that it is told of."""
    found = json.loads((RESULTS / "pluralism-steer.json").read_text())
    rows = {
        name: {
            row["measure"]: row
            for row in found[name]["steerable"]
            if row["community"] == "all answers"
        }
        for name in ("persona", "examples")
        if name in found
    }
    shown = ("match untold", "match", "nearer to whom it was told of", "nearer to the others")
    shown += ("specific", "ceiling of specific", "moved")
    lines = [f"| | {' | '.join(rows)} |", "|" + "---|" * (1 + len(rows))]
    for measure in shown:
        form = "+.3f" if "near" in measure or measure == "specific" else ".3f"
        cells = (_interval(row[measure], form) for row in rows.values())
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    skill = {
        name: next(
            row
            for row in found[name]["agreement"]
            if (row["community"], row["measure"]) == ("all answers", "skill")
        )
        for name in rows
    }
    told = "SmolLM2 told of four countries, against itself untold: " + "; ".join(
        f"by {name} it answers "
        + (
            "surely more as the one it is told of than as the others"
            if row["specific"]["low"] > 0
            else "no more surely as the one it is told of than as the others"
        )
        + f" (p {found[name]['summary']['p']:.3f}), skill {_interval(skill[name], '+.2f')}"
        for name, row in rows.items()
    )
    told += " (`python benchmarks/pluralism.py DISTRIBUTIONS --part steer`)."
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def communities_fit() -> str:
    """Return what adapters of a country are worth on other questions."""
    found = json.loads((RESULTS / "pluralism-fit.json").read_text())
    summary = found["summary"]
    of = {
        (row["arm"], row["measure"], row["than"]): row
        for row in found["arms"]
        if row["community"] == "all answers"
    }
    arms = list(dict.fromkeys(arm for arm, _, _ in of))
    lines = ["| arm | js distance | skill | less that of `none` |", "|" + "---|" * 4]
    for arm in arms:
        less = of.get((arm, "skill", "none"))
        lines.append(
            f"| `{arm}` | {_interval(of[arm, 'js distance', ''], '.3f')} "
            f"| {_interval(of[arm, 'skill', ''], '+.2f')} "
            f"| {'' if less is None else _interval(less, '+.2f')} |"
        )
    names = {
        "none": "the model as it was",
        "everyone's adapter": "an adapter of everybody",
        "adapter of shuffled options": "one of its own answers with the options shuffled",
    }
    learnt = ", ".join(
        f"{before:.2f} to {after:.2f} ({name})"
        for name, (before, after) in summary["divergence"].items()
    )
    told = (
        f"{' and '.join(summary['communities'])}; {summary['learnt']} questions to learn from, "
        f"{summary['measured']} others to measure on. On what they learnt from, adapters' "
        f"divergence from the answers went, in nats, from {learnt}. "
        "A country's own adapter "
        + "; it ".join(
            f"{_stands(of['adapter', 'skill', than])} {what} "
            f"({_interval(of['adapter', 'skill', than], '+.2f')})"
            for than, what in names.items()
        )
        + ". (`python benchmarks/pluralism.py DISTRIBUTIONS --part fit`)"
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def communities_voiced() -> str:
    """Return how many positions a real model voices, by the judges that are at hand."""
    found = json.loads((RESULTS / "pluralism-overton.json").read_text())
    judges = {name: one for name, one in found.items() if name in ("words", "itself")}
    lines = [f"| judge | {' | '.join(judges)} |", "|" + "---|" * (1 + len(judges))]
    worth = {name: {row["measure"]: row for row in one["judge"]} for name, one in judges.items()}
    for measure in ("auroc", "sensitivity", "specificity"):
        cells = (_interval(of[measure]) for of in worth.values())
        lines.append(f"| {measure} of the judge | {' | '.join(cells)} |")
    arms = {"plain": "asked plain", "many": "asked many", "single": "one position alone"}
    arms |= {"shuffled many": "answers to other questions, many", "all positions": "all positions"}
    usable = {name: one["summary"]["judge"]["usable"] for name, one in judges.items()}
    for arm, what in arms.items() if any(usable.values()) else ():
        cells = []
        for name, one in judges.items():
            (row,) = (
                row for row in one["scores"] if (row["arm"], row["measure"]) == (arm, "coverage")
            )
            cells.append(_interval(row) if usable[name] else "")
        lines.append(f"| coverage, {what} | {' | '.join(cells)} |")
    summary = found["words"]["summary"]
    none = [name for name, can in usable.items() if not can]
    told = (
        f"SmolLM2's {summary['samples']} answers to each of the {summary['questions']} starter "
        f"questions, asked plain and for the different views, {summary['tokens']} tokens at most. "
        + (
            f"No coverage is told by {' and '.join(none)}: unusable on paraphrases. "
            if none
            else ""
        )
        + "(`python benchmarks/pluralism.py starter --part overton`)"
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def communities_moved() -> str:
    """Return how telling a real model of countries, and adapters, move its moral geometry."""
    found = json.loads((RESULTS / "pluralism-fit.json").read_text())["geometry"]
    shown = (("moved", "all"), ("category_rdm", "all"), ("opposed_cosine", "mean"), ("r2", "mean"))
    layer = found["layers"][-1]
    of = {
        (row["kind"], row["arm"], row["name"], row["category"]): row
        for row in found["rows"]
        if row["layer"] == layer and row["status"] == "ok"
    }
    shown = tuple(one for one in shown if any(key[2:] == one for key in of))
    lines = [
        f"| kind | arm | {' | '.join(name for name, _ in shown)} |",
        "|" + "---|" * (2 + len(shown)),
    ]
    for kind, arm in dict.fromkeys(key[:2] for key in of):
        cells = []
        for name, category in shown:
            row = of[kind, arm, name, category]
            plain = name == "moved" or kind == "base"
            value, low, high = (
                (row["value"], row["ci_low"], row["ci_high"])
                if plain
                else (row["less"], row["less_low"], row["less_high"])
            )
            one = {"value": value, "low": low, "high": high}
            cells.append(_interval(one, ".2f" if plain else "+.2f"))
        lines.append(f"| {kind} | {arm} | {' | '.join(cells)} |")
    tried = [row for key, row in of.items() if key[2:] in shown and row["beyond_low"] is not None]
    sure = [row for row in tried if row["beyond_low"] * row["beyond_high"] > 0]
    beyond = f"Of {len(tried)} comparisons with an arm's controls, each by its own interval, "
    beyond += f"{len(sure)} are apart" + (
        ": "
        + "; ".join(
            f"{row['arm']}, {row['name']} {'higher' if row['beyond_low'] > 0 else 'lower'}"
            for row in sure
        )
        if sure
        else ""
    )
    beyond += "."
    told = (
        f"SmolLM2, layer {layer}, {found['texts']} held-out actions of the starter set: the "
        "measures of `anybody`, and those of every other arm less these; `moved` is 1 - the mean "
        "cosine with a text's state under `anybody`. "
        f"{beyond} (`python benchmarks/pluralism.py DISTRIBUTIONS --part fit`)"
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def dilemmas() -> str:
    """Return a real model's effects in the Moral Machine's design, beside countries'."""
    found = json.loads((RESULTS / "pluralism-dilemmas.json").read_text())
    summary = found["summary"]
    lines = ["| effect | SmolLM2 | mean of countries |", "|" + "---|" * 3]
    for row in found["effects"]:
        mean = summary["mean effects"][row["effect"]]
        lines.append(f"| {row['effect']} | {_interval(row, '+.2f')} | {mean:+.2f} |")
    told = (
        f"{summary['dilemmas']} dilemmas; SmolLM2 {_stands(summary['skill'])} the mean of other "
        f"countries (skill {_interval(summary['skill'], '+.2f')}): the root mean square difference "
        f"of the nine effects is {_interval(summary['rms'], '.3f')}, of the others' mean "
        f"{summary['others rms']:.3f}, of no effects at all {summary['zero rms']:.3f}, of its own "
        f"under other names {summary['shuffled rms']:.3f}; {summary['countries']} countries, "
        f"{summary['left out']} left out for their standard errors. Its first option has "
        f"{summary['first option']:.2f} of the probability, and the two orders differ by "
        f"{summary['order gap']:.2f}. (`python benchmarks/pluralism.py EFFECTS --part dilemmas`)"
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def orientation() -> str:
    """Return how rationally a real model follows values, beside chance and beside nothing."""
    found = json.loads((RESULTS / "orientation.json").read_text())
    of = {(r["value"], r["condition"], r["measure"]): r for r in found["measures"]}
    conditions = [c for c in ("goal", "no-goal") if ("all", c, "steerability") in of]
    values = ("altruistic", "prosocial", "individualistic", "competitive")

    def cell(value: str, condition: str, measure: str, form: str = ".2f") -> str:
        row = of[value, condition, measure]
        return _interval({**row, "value": row["measured"]}, form)

    chance = of["prosocial", "unprompted", "angle"]["chance"]
    lines = [
        f"| value | condition | angle (chance {chance:.1f}) | rationality (0) "
        "| above unprompted (0) | category (chance) |",
        "|" + "---|" * 6,
    ]
    for condition in conditions:
        for value in values:
            hit = of[value, condition, "category hit"]
            lines.append(
                f"| {value} | {condition} | {cell(value, condition, 'angle', '.1f')} | "
                f"{cell(value, condition, 'rationality', '+.2f')} | "
                f"{cell(value, condition, 'above unprompted', '+.2f')} | "
                f"{hit['measured']:.0%} ({hit['chance']:.1%}) |"
            )
    surely = [f"{value} ({condition})" for value, condition in found["followed"]]
    odd = {name: n for name, n in found["statuses"].items() if name != "ok"}
    most, tried = found["letters"][0], len(conditions) * len(values)
    order = of["prosocial", "unprompted", "transitive"]
    told = (
        f"SmolLM2-135M-Instruct, {found['sessions']} sessions, {found['answers']} answers"
        f"{''.join(f', {name} {n}' for name, n in odd.items())}; a letter is said with a "
        f"probability of {found['mass']:.2f}. Surely followed better than by chance and than "
        f"unprompted, of {tried} tried: {', '.join(surely) or 'none'}. Steerability "
        + ", ".join(f"{cell('all', c, 'steerability')} ({c})" for c in conditions)
        + f", of which 0.5 is chance. Unprompted its angle is "
        f"{cell('prosocial', 'unprompted', 'angle', '.1f')} and {order['measured']:.0%} of its "
        f"sessions are transitive, of random ones {order['chance']:.0%}. Its likeliest letter is "
        f"{most['letter']}, in {most['count'] / found['answers']:.0%} of the answers: options are "
        f"shuffled, so that a letter that is liked gives noise. "
        f"{found['seconds']['run'] / 60:.1f} minutes on {_cores(found)} "
        "(`python benchmarks/orientation.py`)."
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def ring() -> str:
    """Return what is read of assigned values in hidden states, in some layers."""
    found = json.loads((RESULTS / "orientation.json").read_text())
    of = {(r["layer"], r["personas"], r["measure"]): r for r in found["ring"]}
    layers = sorted({r["layer"] for r in found["ring"]})
    lines = [
        "| layer | values apart | others apart | less others | values in order "
        "| others in theirs |",
        "|" + "---|" * 6,
    ]
    both = ("values", "others")
    for layer in layers[:: max(1, len(layers) // 6)]:
        null = [
            f"{r['measured']:.2f} [{r['null_low']:.2f}, {r['null_high']:.2f}]"
            for r in (of[layer, who, m] for m in ("auroc", "order") for who in both)
        ]
        less = of[layer, "values", "auroc less others"]
        null.insert(2, _interval({**less, "value": less["measured"]}, "+.2f"))
        lines.append(f"| {layer} | {' | '.join(null)} |")
    counts = {
        (who, measure): sum(of[layer, who, measure]["p"] < 0.05 for layer in layers)
        for who in both
        for measure in ("auroc", "order")
    }
    better = sum(of[layer, "values", "auroc less others"]["low"] > 0 for layer in layers)
    told = (
        f"In brackets 95 % of the null, of less others an interval. Beyond the null (p below 0.05, "
        f"each layer by itself) values are told apart in {counts['values', 'auroc']} of "
        f"{len(layers)} layers and lie in the ring's order in {counts['values', 'order']}; other "
        f"personas are told apart in {counts['others', 'auroc']}, and lie in their arbitrary order "
        f"in {counts['others', 'order']}. In {better} layers values are surely told apart better "
        "than personas of no meaning here."
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 110)])


def _cores(found: dict[str, Any]) -> str:
    """Return on what something ran."""
    machine = found["machine"]
    return f"{machine['cores']} cores" + (
        " (with bf16 instructions)" if machine.get("bf16_instructions") else ""
    )


def _interval(row: dict[str, Any], form: str = ".2f") -> str:
    if row["value"] is None:
        return "none"
    known = row["low"] is not None
    return f"{row['value']:{form}}" + (
        f" [{row['low']:{form}}, {row['high']:{form}}]" if known else ""
    )


def _gain(row: dict[str, Any]) -> str:
    of = {
        name: row[f"gain{end}"]
        for name, end in {"value": "", "low": "_low", "high": "_high"}.items()
    }
    return _interval(of, "+.2f")


def _named(row: dict[str, Any], name: str, form: str = ".2f") -> str:
    of = {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
    return _interval(of, form)


def _verdict(row: dict[str, Any]) -> str:
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return "neither surely rises nor falls"
    return "surely rises" if row["low"] > 0 else "surely falls"


def _auroc(row: dict[str, Any]) -> str:
    return f"{row['auroc']:.2f} [{row['auroc_low']:.2f}, {row['auroc_high']:.2f}]"


def steering_page() -> str:
    """Say what the page's two texts cost beside one, and whether its server's memory grows."""
    found = json.loads((RESULTS / "page.json").read_text())
    soak = json.loads((RESULTS / "page-soak.json").read_text())
    model = f"{found['model']} in {found['dtype'].removeprefix('torch.')}"
    told = (
        f"On {_cores(found)} with {model}, {found['new_tokens']} new tokens, medians of "
        f"{found['rounds']} alternating runs: both texts take "
        f"**{found['pair_ratio']:.2f} times** what `generate` takes for one, and the first piece "
        f"comes after {found['first_ratio']:.2f} times its time "
        f"({found['seconds']['page_first']:.3f} s against {found['seconds']['first']:.3f} s): the "
        f"default's prompt is read before the other's. In {soak['minutes']:g} minutes of mixed "
        "use, "
        f"{sum(soak['answers'].values()):,} answers, the server's memory went from "
        f"{soak['mb_early']:,} to {soak['mb_late']:,} MB ({soak['growth']:+.1%})."
    )
    return "\n".join(textwrap.wrap(told, 110))


def _published(found: dict[str, Any]) -> list[float]:
    return [r["value"] for r in found["judged"] if r["measure"] == "win rate as published"]


def _effect(
    found: dict[str, Any], arm: str, measure: str, strength: float | None = None
) -> dict[str, Any] | Any:
    rows = (r for r in found["effects"] if (r["arm"], r["measure"]) == (arm, measure))
    return next((r for r in rows if strength is None or r["strength"] == strength), None)


def _between(row: dict[str, Any]) -> str:
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _changed(row: dict[str, Any]) -> str:
    """Return a measure's change from the unsteered model, or itself where it has none, as KL."""
    if row["measure"] == "KL" or row["change"] is None:
        return _between(row)
    ends = f"[{row['change_low']:+.3f}, {row['change_high']:+.3f}]"
    return f"{row['value']:.2f}, {row['change']:+.3f} {ends}"


def steering_speed() -> str:
    """Say what each rule adds to the time of writing."""
    found = json.loads((RESULTS / "steering.json").read_text())
    lines = [
        f"Time of writing {found['new_tokens']} tokens on {found['model']}, as a part of the "
        f"model's "
        f"own, medians of {found['rounds']} alternating runs on {_cores(found)}; "
        f"the encoder's weights are {found['encoder_of_model']:.0%} of the model's bytes.",
        "",
        "| prompts at once | "
        + " | ".join(f"`{name}`" for name in _first(found) if name != "plain")
        + " |",
        "|---|" + "---|" * (len(_first(found)) - 1),
    ]
    for n, batch in found["batches"].items():
        cells = [f"{v:.2f}" for k, v in batch["times_plain"].items() if k != "plain"]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _first(found: dict[str, Any]) -> dict[str, float]:
    times: dict[str, float] = next(iter(found["batches"].values()))["times_plain"]
    return times


def attention() -> str:
    """Say how much slower attention's operations are."""
    found = json.loads((RESULTS / "attention.json").read_text())
    slower = [row["slower"] for kind in ("bf16", "fp32") for row in found[kind]["rows"]]
    lengths = [row["length"] for row in found["bf16"]["rows"]]
    return (
        "An operation of attention counts as three of a linear layer there: on "
        f"{_cores(found)}, at the widths of\nSmolLM2-135M and in sequences of "
        f"{lengths[0]} to {lengths[-1]} tokens, it takes {min(slower):.1f} to {max(slower):.1f} "
        "times as long."
    )


def headline() -> str:
    """Return a table of the questions: as published, audited, and beside other readings."""
    found = json.loads((RESULTS / "analyses.json").read_text())["headline"]
    lines = [
        "| question | li2026, as published | audited, best layer | bag of words "
        "| static embeddings | answer |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["questions"]:
        cells = [
            f"`{row[mode]['measure']}` {_cell(row[mode])}, layer {row[mode]['layer']}"
            for mode in ("published", "audited")
        ]
        cells += [_bare(row["others"].get(name)) for name in ("bag of words", "static embeddings")]
        lines.append(f"| {row['question']} | {' | '.join(cells)} | **{row['answer']}** |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    return _bare([row["value"], row["ci_low"], row["ci_high"]])


def _bare(numbers: list[float] | None) -> str:
    if numbers is None:
        return ""
    digits = 3 if max(map(abs, numbers)) < 0.1 else 2
    value, low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in numbers)
    return f"{value} [{low}, {high}]"


def analyses() -> str:
    """Say what the analyses take."""
    found = json.loads((RESULTS / "analyses.json").read_text())
    all_, density, twice = found["all"], found["density"], found["twice"]
    peaks = [twice[name]["peak_gb"] for name in ("one layer", "twice as many texts")]
    texts, pairs = all_["texts"], all_["pairs"]
    lines = [
        f"The four analyses on {texts:,} texts ({pairs['audited']:,} pairs; li2026 on "
        f"{pairs['li2026']:,}) at {all_['layers']} layers in both modes,",
        "with 1,000 permutations and 1,000 resamples (200 of the ridge's read-outs): "
        f"{all_['seconds'] / 60:.0f} minutes",
        f"and {all_['peak_gb']:.1f} GB on {_cores(found)}; density clusters, "
        f"with the rest of structure: {density['seconds'] / 60:.0f} minutes.",
        f"Twice as many texts take {twice['ratio']:.1f} times as long, and {peaks[1]:.1f} GB "
        f"instead of {peaks[0]:.1f}.",
    ]
    return "\n".join(lines)


def planted() -> str:
    """Return a table of what each headline measure makes of plants whose truth is known."""
    found = json.loads((RESULTS / "planted.json").read_text())
    plants = _plants(found)
    lines = [
        f"| mode | measure | called: {' | '.join(plants)} | covered: {' | '.join(plants)} |",
        f"|---|---|{'---|' * 2 * len(plants)}",
    ]
    for mode in ("audited", "li2026"):
        by_plant = {
            plant: {(x["measure"], x["category"]): x for x in found[f"{plant} {mode}"]}
            for plant in plants
        }
        for key in by_plant["effect"]:
            measure, category = key
            if category not in _SHOWN:
                continue
            rows = [by_plant[plant].get(key) for plant in plants]
            cells = [_share(x and x["called"]) for x in rows]
            cells += [_share(x and x["covered"]) for x in rows]
            lines.append(f"| {mode} | `{measure}` ({category}) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_in_all(found)])


def _in_all(found: dict[str, Any]) -> list[str]:
    """Say how many audited measures, category by category, are as they should be."""
    plants = _plants(found)
    audited = {plant: found[f"{plant} audited"] for plant in plants}
    silent = [
        x["called"]
        for x in audited.get("length", [])
        if x["called"] is not None and "length" not in (x["category"], x["measure"].split("_")[0])
    ]
    called = [x["called"] for x in audited["nothing"] if x["called"] is not None]
    held = sum(0.03 <= x <= 0.08 for x in called)
    covered = [x["covered"] for plant in plants for x in audited[plant]]
    narrow, wide = sum(x < 0.92 for x in covered), sum(x > 0.98 for x in covered)
    sets = audited["effect"][0]["sets"]
    quiet = sum(x <= 0.08 for x in silent)
    return [
        f"Of {len(called)} audited measures and categories {held} call between 3 and 8 % of the",
        f"sets in which nothing was planted, the most {max(called):.1%}. Where only length",
        f"differs, {quiet} of {len(silent)} that aren't about length call at most 8 %, the most",
        f"{max(silent, default=0):.1%}. Of {len(covered)} audited intervals on the plants",
        f"{len(covered) - narrow - wide} cover in 92 to 98 % of {sets} sets, {wide} in more and",
        f"{narrow} in fewer, the least in {min(covered):.1%}. Of as many that cover exactly 95 %",
        f"{len(covered) * _seen_outside(sets):.1f} would be expected outside.",
    ]


def _seen_outside(sets: int) -> float:
    """Return how often an interval that covers 95 % is seen to cover fewer than 92 or over 98 %."""
    inside = (k for k in range(sets + 1) if 0.92 <= k / sets <= 0.98)
    return 1 - sum(math.comb(sets, k) * 0.95**k * 0.05 ** (sets - k) for k in inside)


def _plants(found: dict[str, Any]) -> list[str]:
    """Return the plants that were measured in both modes."""
    modes = ("audited", "li2026")
    return [plant for plant in _PLANTS if all(f"{plant} {mode}" in found for mode in modes)]


def wide() -> str:
    """Say what a store as deep and wide as Qwen3-8B's takes."""
    found = json.loads((RESULTS / "wide.json").read_text())
    size = f"{found['layers']} layers, {found['width']:,} wide, of {found['texts']:,} texts"
    return (
        f"A store of {size} ({found['store_gb']:.0f} GB with two poolings) is read a layer\n"
        f"at a time: both modes peak at {found['peak_gb']:.1f} GB of memory, at "
        f"{found['draws']:,} draws. The first layer, with all\n"
        f"that is made once and the baselines, takes {found['seconds'] / 60:.0f} minutes."
    )


_PLANTS = ("nothing", "length", "effect", "both")
_SHOWN = ("mean", "mean_abs", "all", "MFT5", "Polarity3", "axis", "polarity", "intensity", "rank_1")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def filled(page: str) -> str:
    """Return the page with every marked block made anew; an unknown name raises KeyError."""
    blocks = {
        "analyses": analyses,
        "attention": attention,
        "confound": confound,
        "extraction": extraction,
        "extraction_gpu": extraction_gpu,
        "headline": headline,
        "layers": layers,
        "plan": plan,
        "planted": planted,
        "sae": sae,
        "sae_speed": sae_speed,
        "steering": steering,
        "steering_speed": steering_speed,
        "evaluation": evaluation,
        "page": steering_page,
        "consensus": consensus,
        "consensus_people": consensus_people,
        "elicitation": elicitation,
        "repair": repair,
        "communities": communities,
        "communities_told": communities_told,
        "communities_fit": communities_fit,
        "communities_moved": communities_moved,
        "communities_voiced": communities_voiced,
        "dilemmas": dilemmas,
        "orientation": orientation,
        "ring": ring,
        "topology": topology,
        "wide": wide,
    }
    return re.sub(
        r"(<!-- numbers: (\w+) -->\n).*?(<!-- /numbers -->)",
        lambda match: f"{match[1]}{blocks[match[2]]()}\n{match[3]}",
        page,
        flags=re.DOTALL,
    )


def main() -> None:
    """Write the pages, or check them."""
    for path in PAGES:
        page = path.read_text()
        new = filled(page)
        if new == page:
            continue
        if "--check" in sys.argv[1:]:
            sys.exit(f"{path} isn't what benchmarks/results say: run this without --check")
        path.write_text(new)


if __name__ == "__main__":
    main()
