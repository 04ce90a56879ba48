"""The token states of a model's texts as what autoencoders are trained and judged on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moralprobe.activations.distinct import Tokens, windows
from moralprobe.activations.job import MAX_TOKENS, encode_texts, prompt_of
from moralprobe.activations.store import VECTORS, TextTable, load_table
from moralprobe.activations.stream import Shuffled, TokenSource, counting
from moralprobe.activations.token_store import StoredTokens
from moralprobe.data.starter import NAME as STARTER
from moralprobe.data.texts import SUFFIXES, load_lines
from moralprobe.errors import UsageError
from moralprobe.files import hash_file
from moralprobe.models.causal import CausalModel
from moralprobe.models.tokens import Encoded
from moralprobe.moral_vectors import build_vectors
from moralprobe.sae.load import LoadedSAE
from moralprobe.sae.recipe import Task
from moralprobe.sae.train import State, train
from moralprobe.sae.trainer import ORDER

HELD_OUT: Final = 0.05
"""The share of texts that no autoencoder is trained on."""


@dataclass(frozen=True)
class TextOptions:
    """Which texts are read, and how: of tables the actions in a template, of files windows."""

    paths: tuple[str, ...]
    template: str = "action-is-morally"
    max_tokens: int = MAX_TOKENS
    held_out: float = HELD_OUT


def judging_tokens(model: CausalModel, loaded: LoadedSAE, paths: Sequence[str] | None) -> Tokens:
    """Return what an autoencoder may be judged by: of its own texts those held out, of others all.

    Raises:
        As `options_of` and `read_texts`.
    """
    options = options_of(loaded, paths)
    train, held = read_texts(model, options)
    known = set((loaded.sae.cfg.metadata.text_hashes or {}).values())
    if paths is None or known & set(hashes_of(options.paths).values()):
        return held
    return Tokens.distinct([*train.encoded, *held.encoded])


def hashes_of(paths: Sequence[str]) -> dict[str, str]:
    """Return by which the texts of a path are known again, of a store by those of its table."""
    files = {path: Path(path) / VECTORS if Path(path).is_dir() else Path(path) for path in paths}
    return {path: path if path == STARTER else hash_file(file) for path, file in files.items()}


def read_texts(model: CausalModel, options: TextOptions) -> tuple[Tokens, Tokens]:
    """Return the tokens to train on and those held out.

    Args:
        model: whose tokenizer reads.
        options: `paths` are tables of moral vectors or ratings, `starter`, and files of text.

    Raises:
        UsageError: a share held out that isn't between 0 and 1.
        DataError: a file that can't be read.
    """
    if not 0 < options.held_out < 1:
        raise UsageError(
            "the share held out must lie between 0 and 1",
            f"it is {options.held_out}",
            f"leave it out to take {HELD_OUT}",
        )
    encoded: list[Encoded] = []
    for path in options.paths:
        encoded += _encoded(model, path, options)
    return Tokens.distinct(encoded).split(options.held_out)


def train_on_tokens(
    model: CausalModel,
    texts: TextOptions,
    tasks: Sequence[Task],
    out: Path,
    *,
    shuffled: bool = False,
    states: Path | None = None,
    progress: Callable[[State], None] = lambda state: None,
    reading: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Train autoencoders on token states of a model, token 0 of every text left out.

    Args:
        model: from `load_model`.
        texts: what is read.
        tasks: what is trained; all from one reading of the texts.
        out: the folder; of several autoencoders each has one in it.
        shuffled: every dimension is shuffled by itself: a null, see `stream.Shuffled`.
        states: the folder of a token store: the states are taken from it, or first put there.
        progress: called while training.
        reading: called while the model reads, with tokens read and their number.

    Returns:
        The folders.

    Raises:
        UsageError: autoencoders in the folder of the states.
        As `read_texts`, `StoredTokens` and `sae.train.train`.
    """
    tokens, _ = read_texts(model, texts)
    layers = sorted({task.layer for task in tasks})
    step = counting(reading, len(tokens))
    stored: dict[str, str] = {}
    if states is None:
        source = TokenSource(model, tokens, layers, seed=ORDER, step=step)
    else:
        place = Path(out).resolve()
        if Path(states).resolve() in (place, *place.parents):
            raise UsageError(
                "token states have a folder of their own",
                f"{states} is to hold {out} too",
                "give another --states",
            )
        source = kept = StoredTokens(model, tokens, layers, states, seed=ORDER, step=step)
        stored = {"stored": kept.order}
    about = {
        "source": "tokens",
        "model": model.identity,
        "dtype": str(model.dtype).removeprefix("torch."),
        "template": texts.template,
        "max_tokens": texts.max_tokens,
        "held_out": texts.held_out,
        "tokens": len(tokens),
        "digest": tokens.digest(),
        "pieces": source.pieces(0),
        "shuffled": shuffled,
        **stored,
    }
    return train(
        Shuffled(source, seed=ORDER) if shuffled else source,
        list(tasks),
        out,
        about=about,
        metadata={
            **metadata_of(model, texts, len(tokens)),
            "source": "tokens",
            "shuffled": shuffled,
            "sinks_of_layers": layers,
        },
        sink_norms=lambda: source.limits,
        device=str(model.device),
        progress=progress,
    )


def metadata_of(model: CausalModel, texts: TextOptions, n_tokens: int) -> dict[str, Any]:
    """Return what an autoencoder's config says of its data, under SAELens' names if it has one."""
    return {
        "model_name": model.name,
        "model_identity": model.identity,
        "model_origin": model.origin,
        "dtype_of_states": str(model.dtype).removeprefix("torch."),
        "context_size": texts.max_tokens,
        "texts": list(texts.paths),
        "text_hashes": hashes_of(texts.paths),
        "template": texts.template,
        "held_out": texts.held_out,
        "training_tokens": n_tokens,
        "left_out": "token 0 of every text, and tokens above sink_norm in one of sinks_of_layers",
    }


def origin_of(loaded: LoadedSAE, source: str | None = None) -> dict[str, Any]:
    """Return how `load_model` finds the model that an autoencoder was trained on.

    Raises:
        UsageError: its config doesn't say, and none is given.
    """
    metadata = loaded.sae.cfg.metadata
    origin = dict(metadata.model_origin or {})
    name = source or origin.get("source") or metadata.model_name
    if name is None:
        raise UsageError(
            f"{loaded.folder} doesn't say which model it belongs to",
            "its config names none",
            "give --model",
        )
    return {**origin, "source": name}


def options_of(loaded: LoadedSAE, paths: Sequence[str] | None = None) -> TextOptions:
    """Return which texts an autoencoder was trained on, or others read in the same way.

    Raises:
        UsageError: its config doesn't say, and none are given.
    """
    metadata = loaded.sae.cfg.metadata
    asked = tuple(paths or metadata.texts or ())
    if not asked:
        raise UsageError(
            f"{loaded.folder} doesn't say which texts it was trained on",
            "its config names none",
            "give --texts",
        )
    defaults = TextOptions(asked)
    return TextOptions(
        asked,
        metadata.template or defaults.template,
        metadata.context_size or defaults.max_tokens,
        metadata.held_out or defaults.held_out,
    )


def _encoded(model: CausalModel, path: str, options: TextOptions) -> list[Encoded]:
    if Path(path).suffix in SUFFIXES:
        return windows(model, load_lines(Path(path)), options.max_tokens)
    template = prompt_of(options.template, model.tokenizer)
    return encode_texts(model.tokenizer, table_at(path), template, options.max_tokens)[1]


def table_at(path: str) -> TextTable:
    """Return the table at a path, or the starter set by its name.

    Raises:
        DataError: a file that is no table.
    """
    return build_vectors(STARTER) if path == STARTER else load_table(Path(path))
