"""Autoencoders from a folder or a public release, and whether they belong to a model and layer."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - the error's name alone
from typing import Any, Final

import torch

from moralprobe.errors import (
    IntegrityError,
    ModelError,
    NumericError,
    StoreError,
    UsageError,
    nearest,
)
from moralprobe.files import hash_file
from moralprobe.models.causal import CausalModel, differing
from moralprobe.models.lens import site_of
from moralprobe.sites import Site

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
TRAINING: Final = "training.json"
POOR: Final = 0.5
"""Explained variance below which an autoencoder is said not to fit what it is shown."""
_SMALL: Final = 1 << 20
_UNSAFE: Final = ("*.pt", "*.pth", "*.bin", "*.pkl", "*.npz")


@dataclass(frozen=True)
class LoadedSAE:
    """An autoencoder of SAELens, its folder, and the block whose output it reconstructs."""

    sae: Any
    folder: Path
    layer: int

    @property
    def site(self) -> Site:
        """The place that it reconstructs."""
        return Site("resid_post", self.layer)

    @property
    def sink_norm(self) -> float:
        """The norm above which it wasn't shown tokens, infinity if it doesn't say."""
        norm = self.sae.cfg.metadata.sink_norm
        return math.inf if norm is None else float(norm)


def sae_folders(folder: Path) -> list[Path]:
    """Return the autoencoders in a folder: itself, or the folders in it, sorted by name.

    Raises:
        StoreError: there is none.
    """
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        return [folder]
    inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if not inside:
        unsafe = sorted(path.name for kind in _UNSAFE for path in folder.glob(kind))
        raise StoreError(
            f"{folder} holds no autoencoder",
            f"{unsafe[0]} would have to be unpickled, which runs code"
            if unsafe
            else f"there is no {CONFIG} in it",
            "convert it where you trust it: SAELens' save_model writes cfg.json and safetensors"
            if unsafe
            else "give a folder made by: moralprobe sae train, or by SAELens' save_model",
        )
    return inside


def load_sae(folder: Path, *, device: str = "cpu") -> LoadedSAE:
    """Load an autoencoder that SAELens or we have saved.

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`.
        device: where it goes.

    Raises:
        StoreError: no autoencoder there, or in a format that runs code.
        UsageError: several are there.
        IntegrityError: weights that aren't those that were written, or of another shape than the
            config says.
        ModelError: an architecture that SAELens doesn't know, or a hook that is no site of ours.
    """
    from sae_lens import SAE
    from safetensors import SafetensorError, safe_open

    folder, *others = sae_folders(folder)
    if others:
        raise UsageError(
            f"{folder.parent} holds {len(others) + 1} autoencoders",
            ", ".join(path.name for path in (folder, *others)),
            "give the folder of one of them",
        )
    weights = folder / WEIGHTS
    try:
        if (folder / CONFIG).stat().st_size > _SMALL:
            raise ValueError("it is too large")
        config = json.loads((folder / CONFIG).read_bytes())
        hook, architecture = config["metadata"]["hook_name"], config["architecture"]
        shape = int(config["d_in"]), int(config["d_sae"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{folder / CONFIG} is damaged", f"it describes no autoencoder: {error}", "restore it"
        ) from error
    _check_hash(folder)
    try:
        with safe_open(weights, framework="np") as stream:
            found = tuple(stream.get_slice("W_enc").get_shape())
        if found != shape:
            raise IntegrityError(
                f"{weights} isn't what its config says",
                f"{shape[0]} x {shape[1]} there, {' x '.join(map(str, found))} here",
                "restore the file that belongs to it",
            )
        sae = SAE.load_from_disk(folder, device=device)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise IntegrityError(
            f"{weights} can't be loaded as {architecture!r}",
            (str(error) or type(error).__name__).split("\n")[0],
            "restore it",
        ) from error
    if any(not bool(torch.isfinite(p).all()) for p in sae.parameters()):
        raise NumericError(f"{weights} holds NaN or infinity", "", "train it again")
    try:
        site = site_of(str(hook))
    except UsageError as error:
        raise ModelError(
            f"the autoencoder in {folder} reads a place that isn't a residual stream",
            f"its hook is {hook!r}",
            "use one of a block's output (hook_resid_post) or input (hook_resid_pre)",
        ) from error
    return LoadedSAE(sae.eval(), folder, _block_before(site))


def _block_before(site: Site) -> int:
    """Return the block whose output a site is: what enters a block left the one before."""
    layer = -1 if site.layer is None else site.layer - (site.kind == "resid_pre")
    if layer < 0:
        raise ModelError(
            f"{site} is no layer's output",
            "states are read after decoder blocks",
            "use an autoencoder of a later layer",
        )
    return layer


def _check_hash(folder: Path) -> None:
    """Hold a folder of ours against the hashes that training wrote."""
    for place, name in ((folder, None), (folder.parent, folder.name)):
        path = place / TRAINING
        if not path.is_file():
            continue
        try:
            files = dict(json.loads(path.read_bytes()).get("files", {}))
        except (ValueError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{path} is damaged", "it describes no training run", "restore it"
            ) from error
        entry = files.get(name) if name else next(iter(files.values()), None)
        for file, digest in (entry or {}).items():
            if hash_file(folder / file) != digest:
                raise IntegrityError(
                    f"{folder / file} is damaged",
                    "its checksum doesn't match",
                    "repeat the command that trained it",
                )
        return


def check_belongs(loaded: LoadedSAE, model: CausalModel, layer: int | None = None) -> list[str]:
    """Hold an autoencoder against a model.

    Args:
        loaded: from `load_sae`.
        model: whose states it would read.
        layer: which layer's, if not its own.

    Returns:
        What a user should know: a name that differs.

    Raises:
        ModelError: another width or layer, or other weights than it was trained on; with both.
    """
    sae, site = loaded.sae, loaded.site
    if sae.cfg.d_in != model.d_model:
        raise ModelError(
            f"the autoencoder in {loaded.folder} is of another width",
            f"it reads {sae.cfg.d_in} dimensions, {model.name} has {model.d_model}",
            f"it was trained on {sae.cfg.metadata.model_name}: use that model",
        )
    if loaded.layer >= model.n_layers or (layer is not None and layer != loaded.layer):
        raise ModelError(
            f"the autoencoder in {loaded.folder} is of another layer",
            f"it reads {site}, asked for is "
            + (f"resid_post.{layer}" if layer is not None else f"one of {model.n_layers} layers"),
            f"use it at layer {loaded.layer}",
        )
    theirs = sae.cfg.metadata.model_identity
    if theirs is not None and (names := differing(model.identity, theirs)):
        raise ModelError(
            f"the autoencoder in {loaded.folder} is of another model",
            f"{sae.cfg.metadata.model_name} and {model.name} differ in {', '.join(names)}",
            "load the model that it was trained on",
        )
    name = sae.cfg.metadata.model_name
    if theirs is None and name is not None and name != model.name:
        return [f"{loaded.folder} was trained on {name}, and is used on {model.name}"]
    return []


def made_of(loaded: LoadedSAE, vectors: Path) -> dict[str, str | None]:
    """Return by which an autoencoder and a table are known again; a store by none."""
    vectors = Path(vectors)
    return {
        "sae_hash": hash_file(loaded.folder / WEIGHTS),
        "vectors_hash": hash_file(vectors) if vectors.is_file() else None,
    }


def is_pooled(loaded: LoadedSAE) -> bool:
    """Return whether an autoencoder was trained on pooled vectors."""
    return bool(loaded.sae.cfg.metadata.source == "pooled")


def check_same_states(loaded: LoadedSAE, other: LoadedSAE, *, shuffled: bool) -> None:
    """Refuse an autoencoder that can't stand beside another.

    Args:
        loaded: the one.
        other: of the same model, layer and kind of activations.
        shuffled: whether the other's should have been shuffled.

    Raises:
        ModelError: with what differs, of both.
    """

    def states(sae: LoadedSAE) -> dict[str, Any]:
        said = sae.sae.cfg.metadata
        return {
            "layer": sae.layer,
            "width": sae.sae.cfg.d_in,
            "source": said.source or "tokens",
            "pooling": said.pooling,
            "model": said.model_identity or said.model_name,
        }

    one, two = states(loaded), states(other)
    differs = [name for name in one if one[name] != two[name]]
    if differs:
        names = [name for name in differs if name != "model"]
        both = ", ".join(f"{name} {two[name]} and {one[name]}" for name in names)
        raise ModelError(
            f"{other.folder} isn't of the same states as {loaded.folder}",
            both or "it was trained on another model, or on other weights of it",
            "give one of the same model, layer and source",
        )
    if bool(other.sae.cfg.metadata.shuffled) != shuffled:
        raise ModelError(
            f"{other.folder} was trained on "
            + ("shuffled activations" if not shuffled else "activations that weren't shuffled"),
            "its config says so",
            "train one with --shuffled" if shuffled else "give one of the states as they are",
        )


def check_fits(loaded: LoadedSAE, explained_variance: float) -> list[str]:
    """Hold what an autoencoder explains here against what it should.

    Args:
        loaded: from `load_sae`.
        explained_variance: measured on what is to be read.

    Returns:
        A warning where it explains less than `POOR`.

    Raises:
        ModelError: it reconstructs worse than the mean would; with both numbers.
    """
    theirs = loaded.sae.cfg.metadata.explained_variance
    said = f", where it was trained {theirs:.2f}" if theirs is not None else ""
    if explained_variance < 0:
        raise ModelError(
            f"the autoencoder in {loaded.folder} doesn't fit these states",
            f"it explains {explained_variance:.2f} of their variance, the mean 0.00{said}",
            "use the model, layer and kind of text that it was trained on",
        )
    if explained_variance < POOR:
        return [
            f"{loaded.folder} explains only {explained_variance:.2f} of the variance here{said}"
        ]
    return []


def load_release(release: str, sae_id: str, *, device: str = "cpu") -> Any:
    """Fetch a public autoencoder through SAELens: of a release that it lists, or of any repo.

    Of a repo SAELens reads `{sae_id}/cfg.json` and safetensors. Of the releases that it lists some
    are pickles, as Qwen-Scope: of these tensors are read, and anything else is refused.

    Args:
        release: for example `gemma-scope-2b-pt-res-canonical`, or a repo on the Hub: `user/name`.
        sae_id: for example `layer_12/width_16k/canonical`.
        device: where it goes.

    Returns:
        An `SAE` of SAELens.

    Raises:
        UsageError: a release or id that isn't listed, with the nearest that are.
        ModelError: it can't be fetched, or would be read on another scale than it was trained on.
    """
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    from safetensors import SafetensorError

    known = get_pretrained_saes_directory()
    if release not in known and release.count("/") != 1:
        raise UsageError(
            f"unknown release {release!r}",
            nearest(release, known),
            "choose one that SAELens lists, or a repo of the Hub as user/name",
        )
    if release in known and sae_id not in (ids := known[release].saes_map):
        raise UsageError(
            f"{release} holds no autoencoder {sae_id!r}", nearest(sae_id, ids), "choose one of them"
        )
    try:
        with warnings.catch_warnings():
            # Of a scale that isn't known, which is refused below, and of a repo that is listed too.
            warnings.filterwarnings("ignore", "norm_scaling_factor|You are loading an SAE")
            sae = SAE.from_pretrained(release, sae_id, device=device)
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
        UnpicklingError,
        hub_error(),
    ) as error:
        raise ModelError(
            f"can't fetch {sae_id} of {release}",
            " ".join([line for line in str(error).splitlines() if line.strip()][:2]),
            "repeat the command where there is a network, and copy the folder that it writes",
        ) from error
    if sae.cfg.normalize_activations == "expected_average_only_in":
        raise ModelError(
            f"{sae_id} of {release} reads activations on a scale that isn't known",
            "it was trained on scaled ones, and neither its weights nor SAELens hold the scale",
            "use one whose weights were saved with the scale folded in",
        )
    return sae


def hub_error() -> type[Exception]:
    """Return what all errors of the Hub's client derive from; its package differs by version."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def save_release(sae: Any, folder: Path) -> None:
    """Write an autoencoder of SAELens as a folder that `load_sae` reads.

    Raises:
        StoreError: there is one already.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists():
        raise StoreError(
            f"{folder} holds an autoencoder already",
            f"there is a {CONFIG} in it",
            "give a new or empty folder",
        )
    for weight in sae.parameters():  # SAELens turns some releases' about, and can't save that
        weight.data = weight.data.contiguous()
    sae.save_model(folder)
