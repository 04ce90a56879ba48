"""`moralprobe sae`: train autoencoders, judge them, find their moral features."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moralprobe.cli.console import notice, say, say_json, steps
from moralprobe.cli.sae_features import features_command
from moralprobe.errors import UsageError, nearest

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
        typer.Argument(
            metavar="TEXTS...",
            help="Vectors tables, .txt or .jsonl files, 'starter'; for pooled vectors a store too.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write or to continue.")],
    layer: Annotated[str, typer.Option(help="Blocks, from 0: 15, or 10,15, or 8-20:4.")],
    mode: Annotated[
        str, typer.Option(help="audited, or li2026: the paper's vectors, loss and schedule.")
    ] = "audited",
    source: Annotated[
        str | None, typer.Option(help="tokens, or pooled: a vector a text (li2026: a row).")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="topk, batchtopk, jumprelu, relu-l1, matryoshka. Else topk."),
    ] = None,
    expansion: Annotated[str, typer.Option(help="d_sae over d_model; several with commas.")] = "16",
    k: Annotated[
        int | None, typer.Option(help="Features active at once. Else 32, in li2026 50.")
    ] = None,
    sparsity: Annotated[float, typer.Option(help="Penalty of relu-l1 and jumprelu.")] = 1.0,
    n_steps: Annotated[
        int | None,
        typer.Option("--steps", help="Batches to train on. Else 3000, in li2026 100 epochs."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Activations in a batch.")] = 4096,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of Adam. Else 0.0004, in li2026 0.0001.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Of the first weights; several with commas.")] = "0",
    precision: Annotated[
        str, typer.Option(help="auto, bf16 or fp32, of the product that chooses features.")
    ] = "auto",
    pooling: Annotated[
        str | None, typer.Option(help="Of pooled vectors. Else mean_unit, in li2026 mean.")
    ] = None,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Shuffle every dimension by itself: a null.")
    ] = False,
    states: Annotated[
        Path | None, typer.Option(help="A folder that keeps token states, for other trainings.")
    ] = None,
    template: Annotated[str, typer.Option(help="The text around an action.")] = (
        "action-is-morally"
    ),
    max_tokens: Annotated[int, typer.Option(help="Longest text, and window of files.")] = 128,
    held_out: Annotated[
        float, typer.Option(help="Share of texts kept for 'sae eval', of tokens.")
    ] = 0.05,
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32, of the model.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and start nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train on the token states of texts; token 0, the attention sink, is left out.

    With --mode li2026 on centred mean-pooled vectors of rows, as published. The same command again
    continues, and ends with the same weights.

    Example: moralprobe sae train smollm2-135m starter --layer 15 --out sae
    """
    from moralprobe.autoencoders import source_of, train_sae
    from moralprobe.models.load import load_model
    from moralprobe.sae.cost import training_cost
    from moralprobe.sae.recipe import Recipe
    from moralprobe.sae.tokens import TextOptions
    from moralprobe.sae.train import State

    asked: dict[str, Any] = {"k": k, "steps": n_steps, "lr": lr, "arch": _arch(mode, source, arch)}
    given = {name: value for name, value in asked.items() if value is not None}
    make = Recipe.published if mode == "li2026" else partial(Recipe, sparsity=sparsity)
    recipes = [
        make(expansion=e, seed=s, batch=batch, precision=precision, **given)
        for e, s in itertools.product(_numbers(expansion, "--expansion"), _numbers(seed, "--seed"))
    ]
    source = source_of(recipes, source, shuffled=shuffled, states=states)
    options = TextOptions(tuple(texts), template, max_tokens, held_out)
    if dry_run:
        stored = states is not None
        cost = training_cost(model, options, layer, recipes, source=source, stored=stored)
        say(_cost_in_words(cost))
        return
    if not quiet:
        notice(f"loading {model}")
    loaded = load_model(model, dtype=dtype, device=device)
    read_in = "texts" if source == "pooled" else "tokens"
    with steps("reading", quiet=quiet) as read, steps("training", quiet=quiet) as trained:

        def progress(state: State) -> None:
            first = next(iter(state.figures.values()))
            trained(
                state.step,
                state.steps,
                f"steps, unexplained {first['fvu']:.3f}, L0 {first['l0']:.0f}, "
                f"dead {first['dead']:.1%}",
            )

        folders = train_sae(
            loaded,
            options,
            out,
            layers=layer,
            recipe=recipes,
            source=source,
            pooling=pooling,
            shuffled=shuffled,
            states=states,
            progress=progress,
            reading=lambda done, total: read(done, total, read_in),
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
    n_texts: Annotated[
        int, typer.Option(min=2, help="The loss is measured on so many texts.")
    ] = 2000,
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
    from moralprobe.autoencoders import evaluate_sae
    from moralprobe.models.load import choose_device, load_model
    from moralprobe.sae.load import is_pooled, load_sae, sae_folders
    from moralprobe.sae.tokens import origin_of

    rows = []
    loaded_model = None
    for path in sae_folders(folder):
        loaded = load_sae(path, device=str(choose_device(device)))
        if peer and is_pooled(loaded):
            raise UsageError(
                "SAELens evaluates autoencoders of tokens",
                f"{path} was trained on pooled vectors",
                "leave out --sae-lens",
            )
        if loaded_model is None:
            loaded_model = load_model(**origin_of(loaded, model), device=device)
        found = evaluate_sae(loaded, loaded_model, texts=texts, n_texts=n_texts)
        for warning in found.warnings:
            notice(f"warning: {warning}")
        r, loss = found.reconstruction, found.loss
        row: dict[str, object] = {
            "sae": str(path),
            "source": loaded.sae.cfg.metadata.source or "tokens",
            "n": r.n,
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
            "explained_variance_at_tokens": found.at_tokens,
        }  # fmt: skip
        if peer:
            from moralprobe.sae.peer import evaluate_with_sae_lens

            row["sae_lens"] = vars(evaluate_with_sae_lens(loaded, loaded_model, found.texts))
        rows.append(row)
    if as_json:
        say_json(rows)
        return
    for row in rows:
        say(_in_words(row))


app.command("features")(features_command)


@app.command("load")
def load_command(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", help="As SAELens lists it, or user/name on the Hub.")
    ],
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


def _arch(mode: str, source: str | None, arch: str | None) -> str | None:
    """Return the architecture asked for, once what doesn't go with the mode is refused."""
    modes = ("audited", "li2026")
    if mode not in modes:
        raise UsageError(f"unknown mode {mode!r}", nearest(mode, modes), "choose one of them")
    if mode == "audited" and arch == "li2026":
        raise UsageError(
            "li2026 isn't an architecture alone",
            "its vectors, loss and schedule go together",
            "write --mode li2026",
        )
    if mode == "audited":
        return arch
    if source not in (None, "pooled") or arch not in (None, "relu-l1"):
        raise UsageError(
            "--mode li2026 trains a ReLU autoencoder of pooled vectors",
            f"asked for are --source {source or 'pooled'} and --arch {arch or 'relu-l1'}",
            "leave these out, or the mode",
        )
    return None


@app.command("push")
def push_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An autoencoder, or a folder of several.")
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="On the Hub, as user/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repo private; refuse one that is public.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="Write the layout to this folder, and send nothing.")
    ] = None,
) -> None:
    """Publish autoencoders on the Hugging Face Hub, where SAELens loads them.

    Paths of this machine are cut to their last names; the token is that of 'hf auth login'.

    Example: moralprobe sae push sae user/moral-saes --to hub
    """
    from moralprobe.sae.push import layout, push

    if to is None:
        say(push(folder, repo, private=private))
        return
    for name in layout(folder, to, repo_id=repo):
        say(f"{to / name}: written")


def _in_words(row: dict[str, Any]) -> str:
    loss = row["loss"]
    what = "pooled vectors; the loss by tokens" if row["source"] == "pooled" else "tokens"
    judged = f"{row['n']:,} {what}, without {row['sinks']:.2%} sinks"
    lines = [
        f"{row['sae']}: judged by {judged}",
        f"  explained variance {row['explained_variance']:.3f}, L0 {row['l0']:.1f}, "
        f"dead {row['dead']:.1%}, dense {row['dense']:.1%}",
        f"  loss {loss['clean']:.3f}, spliced in {loss['spliced']:.3f}; recovered "
        f"{row['recovered_from_zero']:.3f} of what zeros cost ({loss['zero']:.3f}), "
        f"{row['recovered_from_mean']:.3f} of what the mean costs ({loss['mean']:.3f})",
    ]
    if (at_tokens := row["explained_variance_at_tokens"]) is not None:
        lines.append(
            f"  of single tokens, which steering would change, it explains {at_tokens:.3f}"
        )
    if "sae_lens" in row:
        theirs = row["sae_lens"]
        lines.append(
            f"  SAELens, token 0 too: explained variance {theirs['explained_variance']:.3f}, "
            f"L0 {theirs['l0']:.1f}, loss recovered {theirs['ce_loss_score']:.3f}"
        )
    return "\n".join(lines)


def _cost_in_words(cost: TrainingCost) -> str:
    pooled = f", pooled to {cost.activations:,} vectors" if cost.activations != cost.tokens else ""
    return "\n".join(
        (
            f"{cost.autoencoders} of {cost.d_in:,} to {cost.d_sae:,} on {cost.model}:",
            f"tokens   {cost.tokens:,} distinct ones{pooled}, each used {cost.epochs:.1f} times "
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
