"""`moralprobe sae`: train autoencoders, judge them, find their moral features."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moralprobe.cli.console import notice, say, say_json, steps
from moralprobe.errors import UsageError

if TYPE_CHECKING:
    from moralprobe.sae.cost import TrainingCost

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _sae() -> None:
    """Sparse autoencoders: train, evaluate, find moral features."""


@app.command("train")
def train_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name, folder, or id on the hub.")],
    texts: Annotated[
        list[str],
        typer.Argument(metavar="TEXTS...", help="Vectors tables, .txt or .jsonl files, 'starter'."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write or to continue.")],
    layer: Annotated[str, typer.Option(help="Blocks, from 0: 15, or 10,15, or 8-20:4.")],
    arch: Annotated[
        str, typer.Option(help="topk, batchtopk, jumprelu, relu-l1, matryoshka.")
    ] = "topk",
    expansion: Annotated[str, typer.Option(help="d_sae over d_model; several with commas.")] = "16",
    k: Annotated[int, typer.Option(help="Features active at once.")] = 32,
    sparsity: Annotated[float, typer.Option(help="Penalty of relu-l1 and jumprelu.")] = 1.0,
    n_steps: Annotated[int, typer.Option("--steps", help="Batches to train on.")] = 3000,
    batch: Annotated[int, typer.Option(help="Activations in a batch.")] = 4096,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 4e-4,
    seed: Annotated[str, typer.Option(help="Of the first weights; several with commas.")] = "0",
    precision: Annotated[
        str, typer.Option(help="bf16 or fp32, of the product that chooses features.")
    ] = "bf16",
    template: Annotated[str, typer.Option(help="The text around an action.")] = (
        "action-is-morally"
    ),
    max_tokens: Annotated[int, typer.Option(help="Longest text, and window of files.")] = 128,
    held_out: Annotated[float, typer.Option(help="Share of texts kept for 'sae eval'.")] = 0.05,
    dtype: Annotated[str, typer.Option(help="bf16 or fp32, of the model.")] = "bf16",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and start nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train on the token states of texts; token 0, the attention sink, is left out.

    The same command again continues, and ends with the same weights.

    Example: moralprobe sae train smollm2-135m starter --layer 15 --out sae
    """
    from moralprobe.models.load import load_model
    from moralprobe.sae.cost import training_cost
    from moralprobe.sae.recipe import Recipe
    from moralprobe.sae.tokens import TextOptions, train_on_tokens
    from moralprobe.sae.train import State, Task
    from moralprobe.sites import parse_layers

    recipes = [
        Recipe(arch, e, k, sparsity, n_steps, batch, lr, s, precision=precision)
        for e, s in itertools.product(_numbers(expansion, "--expansion"), _numbers(seed, "--seed"))
    ]
    options = TextOptions(tuple(texts), template, max_tokens, held_out)
    if dry_run:
        say(_cost_in_words(training_cost(model, options, layer, recipes)))
        return
    if not quiet:
        notice(f"loading {model}")
    loaded = load_model(model, dtype=dtype, device=device)
    tasks = [Task(at, recipe) for at in parse_layers(layer, loaded.n_layers) for recipe in recipes]
    with steps("reading tokens", quiet=quiet) as read, steps("training", quiet=quiet) as trained:

        def progress(state: State) -> None:
            first = next(iter(state.figures.values()))
            trained(
                state.step,
                state.steps,
                f"steps, unexplained {first['fvu']:.3f}, L0 {first['l0']:.0f}, "
                f"dead {first['dead']:.1%}",
            )

        folders = train_on_tokens(
            loaded,
            options,
            tasks,
            out,
            progress=progress,
            reading=lambda done, total: read(done, total, "tokens"),
        )
    for folder in folders:
        say(f"{folder}: trained")


@app.command("eval")
def eval_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An autoencoder, or a folder of several.")
    ],
    texts: Annotated[
        list[str] | None,
        typer.Option(help="Other texts to judge by than what was held out of its own."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, if not found by its name.")] = None,
    n_texts: Annotated[int, typer.Option(help="The loss is measured on so many texts.")] = 2000,
    peer: Annotated[
        bool, typer.Option("--sae-lens", help="SAELens' own evaluation beside it.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say how good autoencoders are, on texts that were held out.

    Explained variance, L0, dead and dense features, and the loss recovered when the reconstruction
    takes the place of the model's states, against ablation by zeros and by the mean.

    Example: moralprobe sae eval sae
    """
    from moralprobe.models.load import choose_device, load_model
    from moralprobe.sae.evaluate import evaluate, spread
    from moralprobe.sae.load import load_sae, sae_folders
    from moralprobe.sae.tokens import judging_tokens, origin_of

    rows = []
    loaded_model = None
    for path in sae_folders(folder):
        loaded = load_sae(path, device=str(choose_device(device)))
        if loaded_model is None:
            loaded_model = load_model(**origin_of(loaded, model), device=device)
        held = judging_tokens(loaded_model, loaded, texts)
        found = evaluate(loaded, loaded_model, held, n_texts=n_texts)
        for warning in found.warnings:
            notice(f"warning: {warning}")
        r, loss = found.reconstruction, found.loss
        row: dict[str, object] = {
            "sae": str(path),
            "tokens": r.n,
            "sinks": found.sinks,
            "explained_variance": r.explained_variance,
            "l0": r.l0,
            "dead": r.dead,
            "dense": r.dense,
            "cosine": r.cosine,
            "norm_ratio": r.norm_ratio,
            "loss": {"tokens": loss.tokens, "clean": loss.clean, "spliced": loss.spliced,
                     "zero": loss.zero, "mean": loss.mean},
            "recovered_from_zero": loss.recovered_from_zero,
            "recovered_from_mean": loss.recovered_from_mean,
        }  # fmt: skip
        if peer:
            from moralprobe.sae.peer import evaluate_with_sae_lens

            row["sae_lens"] = vars(
                evaluate_with_sae_lens(loaded, loaded_model, spread(held.encoded, n_texts))
            )
        rows.append(row)
    if as_json:
        say_json(rows)
        return
    for row in rows:
        say(_in_words(row))


@app.command("features")
def features_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An autoencoder.")],
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A file made by 'vectors build'.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    mode: Annotated[
        str, typer.Option(help="Whose features get a page: li2026, audited or both.")
    ] = "both",
    pages: Annotated[int, typer.Option(help="At most so many pages, the strongest first.")] = 200,
    model: Annotated[str | None, typer.Option(help="The model, if not found by its name.")] = None,
    seed: Annotated[int, typer.Option(help="Of shuffles, halves and resamples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Find the moral features of an autoencoder, by the published rules and by ours.

    Writes FEATURES.parquet, a row a feature, features.json, and a page a feature.

    Example: moralprobe sae features sae starter.parquet --out features
    """
    from moralprobe.files import check_writable, write_bytes, write_json
    from moralprobe.models.load import choose_device, load_model
    from moralprobe.moral_vectors import MoralVectors
    from moralprobe.options import parse_modes
    from moralprobe.report.features import Examples, write_feature_pages
    from moralprobe.sae.directions import next_tokens
    from moralprobe.sae.features import moral_features
    from moralprobe.sae.load import load_sae
    from moralprobe.sae.text_features import read_features
    from moralprobe.sae.tokens import origin_of

    modes = parse_modes(mode)
    table = MoralVectors.load(vectors)
    loaded = load_sae(folder, device=str(choose_device(device)))
    check_writable(out)
    loaded_model = load_model(**origin_of(loaded, model), device=device)
    with steps("reading tokens", quiet=quiet) as step:

        def reading(done: int, total: int) -> None:
            step(done, total, "tokens")

        read = read_features(loaded, loaded_model, table, seed=seed, reading=reading)
    for warning in read.warnings:
        notice(f"warning: {warning}")
    found = moral_features(read, seed=seed)
    frame, summary = found.frame, found.summary
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    write_bytes(out / "FEATURES.parquet", buffer.getvalue())
    about = {"sae": str(folder), "vectors": str(vectors), "model": loaded_model.name, "seed": seed}
    write_json(out / "features.json", {**about, "site": str(loaded.site), **summary})
    columns = {"audited": "chosen", "li2026": "li_strict"}
    wanted = frame.select(columns[name] for name in modes).max_horizontal()
    rows = frame.filter(wanted).sort("replicated", "t", descending=True, nulls_last=True)
    shown = rows.head(pages).to_dicts()
    raised, lowered = next_tokens(loaded, loaded_model, [row["feature"] for row in shown])
    examples = Examples(read.texts, read.activations.tocsc(), raised, lowered)
    page = write_feature_pages(
        shown, summary, examples, out, model=loaded_model.name, site=str(loaded.site)
    )
    say(
        f"{summary['chosen']} of {summary['tested']:,} features that can be tested are chosen, "
        f"{summary['replicated']} hold on held-out texts"
    )
    say(
        f"nulls: poles shuffled {', '.join(map(str, summary['null_shuffled_chosen']))} chosen; "
        f"a random dictionary {summary['null_random_dictionary']['replicated']} hold; "
        f"other features as often active {summary['others_as_dense']['hold']} of "
        f"{summary['others_as_dense']['features']} hold"
    )
    published = summary["li2026"]
    say(
        f"li2026 on the same texts: {published['mono']} mono-semantic, {published['strict']} strict"
    )
    say(f"{page}")


@app.command("load")
def load_command(
    release: Annotated[str, typer.Argument(metavar="RELEASE", help="As SAELens lists it.")],
    sae_id: Annotated[str, typer.Argument(metavar="ID", help="Of an autoencoder in it.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
) -> None:
    """Fetch a public autoencoder through SAELens, as a folder that the other commands take.

    Example: moralprobe sae load gpt2-small-res-jb blocks.8.hook_resid_pre --out sae
    """
    from moralprobe.files import check_writable
    from moralprobe.sae.load import load_release, load_sae, save_release

    check_writable(out)
    save_release(load_release(release, sae_id), out)
    loaded = load_sae(out)
    cfg = loaded.sae.cfg
    say(f"{out}: {cfg.architecture()} of {loaded.site}, {cfg.d_in} to {cfg.d_sae}")


def _in_words(row: dict[str, Any]) -> str:
    loss = row["loss"]
    lines = [
        f"{row['sae']}: judged by {row['tokens']:,} tokens, without {row['sinks']:.2%} sinks",
        f"  explained variance {row['explained_variance']:.3f}, L0 {row['l0']:.1f}, "
        f"dead {row['dead']:.1%}, dense {row['dense']:.1%}",
        f"  loss {loss['clean']:.3f}, spliced in {loss['spliced']:.3f}; recovered "
        f"{row['recovered_from_zero']:.3f} of what zeros cost ({loss['zero']:.3f}), "
        f"{row['recovered_from_mean']:.3f} of what the mean costs ({loss['mean']:.3f})",
    ]
    if "sae_lens" in row:
        theirs = row["sae_lens"]
        lines.append(
            f"  SAELens, token 0 too: explained variance {theirs['explained_variance']:.3f}, "
            f"L0 {theirs['l0']:.1f}, loss recovered {theirs['ce_loss_score']:.3f}"
        )
    return "\n".join(lines)


def _cost_in_words(cost: TrainingCost) -> str:
    return "\n".join(
        (
            f"{cost.autoencoders} of {cost.d_in:,} to {cost.d_sae:,} on {cost.model}:",
            f"tokens   {cost.tokens:,} distinct ones, each used {cost.epochs:.1f} times "
            f"(counted by {cost.tokens_by})",
            f"reading  {cost.read_flops:.2g} FLOPs, {cost.readings} "
            f"time{'s' if cost.readings != 1 else ''}; the model takes "
            f"{cost.model_bytes / 1e9:,.1f} GB",
            f"training {cost.train_flops:.2g} FLOPs, without the revival of dead features",
            f"memory   {cost.memory_bytes / 1e9:,.1f} GB beside the model; "
            f"disk {cost.disk_bytes / 1e9:,.1f} GB with a checkpoint",
        )
    )


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{option} takes whole numbers", f"not {text!r}", f"write {option} 8 or {option} 8,16"
        ) from error
