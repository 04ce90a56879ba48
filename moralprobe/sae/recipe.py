"""What an autoencoder is asked to be: architecture, size and training, and SAELens' class of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from moralprobe.errors import DataError, UsageError, nearest
from moralprobe.models.load import AUTO, DTYPES, choose_dtype

PUBLISHED: Final = "li2026"
EPOCHS: Final = 100
"""That autoencoders are trained for as published."""
ARCHITECTURES: Final = ("topk", "batchtopk", "jumprelu", "relu-l1", "matryoshka", PUBLISHED)
"""TopK (Gao et al. 2024), BatchTopK (Bussmann et al. 2024), JumpReLU (Rajamanoharan et al. 2024),
ReLU with an L1 penalty (Bricken et al. 2023), BatchTopK in nested sizes (Bussmann et al. 2025), and
a ReLU with the loss and schedule of Li et al. (2026)."""
CHOOSE_K: Final = ("topk", "batchtopk", "matryoshka")
"""Those with a number of active features instead of a penalty on them."""
_NESTED: Final = (16, 8, 4, 2, 1)  # the sizes of a matryoshka, as parts of the whole


@dataclass(frozen=True)
class Recipe:
    """How one autoencoder is made.

    Attributes:
        arch: one of `ARCHITECTURES`.
        expansion: features for every dimension of the residual stream.
        k: features active at once: exactly for topk, on average for batchtopk and matryoshka; for
            li2026 what its penalty is led to.
        sparsity: weight of the penalty on active features, of relu-l1 and jumprelu.
        steps: batches that are trained on.
        batch: activations in a batch.
        lr: learning rate of Adam, warmed up over the first 5 % of steps and led to 0 over the
            last 20 %; of li2026 as it was published.
        seed: of the initial weights; the order of activations is the same for all.
        dead_after: a feature is dead that hasn't been active for so many steps.
        precision: of the dense product by which topk and batchtopk choose their features, and of
            all products of li2026; `auto` is what `models.load.choose_dtype` takes.
    """

    arch: str = "topk"
    expansion: int = 16
    k: int = 32
    sparsity: float = 1.0
    steps: int = 3000
    batch: int = 4096
    lr: float = 4e-4
    seed: int = 0
    dead_after: int = 300
    precision: str = "auto"

    @classmethod
    def published(
        cls,
        *,
        expansion: int = 16,
        k: int = 50,
        steps: int = 0,
        batch: int = 4096,
        lr: float = 1e-4,
        seed: int = 0,
        precision: str = "auto",
    ) -> Recipe:
        """Return the paper's: steps of 0 are a hundred epochs of what it is trained on."""
        return cls(
            PUBLISHED, expansion, k, steps=steps, batch=batch, lr=lr, seed=seed, precision=precision
        )

    def settled(self, device: str) -> Recipe:
        """Return the recipe with the precision that `auto` is on a device."""
        return replace(self, precision=choose_dtype(self.precision, device))

    def check(self, d_in: int) -> None:
        """Refuse what can't be trained.

        Args:
            d_in: width of what is reconstructed.

        Raises:
            UsageError: an unknown architecture or precision, or a number out of range.
        """
        for what, value, known in (
            ("architecture", self.arch, ARCHITECTURES),
            ("precision", self.precision, (AUTO, *DTYPES)),
        ):
            if value not in known:
                raise UsageError(
                    f"unknown {what} {value!r}", nearest(value, known), "choose one of these"
                )
        numbers = {
            "--expansion": self.expansion,
            "--k": self.k,
            "--steps": self.steps,
            "--batch": self.batch,
            "--lr": self.lr,
        }
        for name, number in numbers.items():
            if not number > 0:
                raise UsageError(
                    f"{name} must be above 0", f"it is {number}", f"give another {name}"
                )
        if self.k > self.expansion * d_in:
            raise UsageError(
                "more features would be active than there are",
                f"k is {self.k}, d_sae {self.expansion * d_in}",
                "give a smaller --k or a larger --expansion",
            )


@dataclass(frozen=True)
class Task:
    """One autoencoder to train: on which layer, and how."""

    layer: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Return the name of its folder, where several are trained."""
        r = self.recipe
        size = f"k{r.k}" if r.arch in (*CHOOSE_K, PUBLISHED) else f"s{r.sparsity:g}"
        return f"resid_post.{self.layer}-{r.arch}-x{r.expansion}-{size}-seed{r.seed}"


def for_epochs(recipe: Recipe, n: int) -> Recipe:
    """Return a recipe whose steps of 0 are those of the published hundred epochs.

    Args:
        recipe: others stay as they are.
        n: activations in an epoch.

    Raises:
        DataError: fewer than a batch.
    """
    if recipe.steps or recipe.arch != PUBLISHED:
        return recipe
    if not 0 < recipe.batch <= n:
        raise DataError(
            "there are too few activations for a batch",
            f"{n:,}, and a batch of {recipe.batch:,}",
            "give more texts, or a smaller --batch",
        )
    return replace(recipe, steps=EPOCHS * (n // recipe.batch))


def new_sae(recipe: Recipe, d_in: int, *, device: str, metadata: dict[str, Any]) -> Any:
    """Return an autoencoder with weights drawn from the recipe's seed.

    Args:
        recipe: what is asked for.
        d_in: width of what is reconstructed.
        device: where it is trained.
        metadata: what is written into its config, under SAELens' names where it has some.

    Returns:
        A `TrainingSAE` of SAELens, in fp32.
    """
    import sae_lens

    from moralprobe.sae import published_training, sparse

    d_sae = recipe.expansion * d_in
    common: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "device": device,
        "normalize_activations": "expected_average_only_in",
    }
    fast: dict[str, Any] = {"precision": recipe.settled(device).precision}
    makers: dict[str, Any] = {
        "topk": lambda: sparse.SparseTopKTrainingSAE(
            sparse.SparseTopKTrainingSAEConfig(**common, k=recipe.k, **fast)
        ),
        "batchtopk": lambda: sparse.SparseBatchTopKTrainingSAE(
            sparse.SparseBatchTopKTrainingSAEConfig(**common, k=recipe.k, **fast)
        ),
        "relu-l1": lambda: sae_lens.StandardTrainingSAE(
            sae_lens.StandardTrainingSAEConfig(
                **common, l1_coefficient=recipe.sparsity, l1_warm_up_steps=recipe.steps // 20
            )
        ),
        "jumprelu": lambda: sae_lens.JumpReLUTrainingSAE(
            sae_lens.JumpReLUTrainingSAEConfig(
                **common, l0_coefficient=recipe.sparsity, l0_warm_up_steps=recipe.steps // 20
            )
        ),
        "matryoshka": lambda: sae_lens.MatryoshkaBatchTopKTrainingSAE(
            sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
                **common, k=recipe.k, matryoshka_widths=[d_sae // part for part in _NESTED]
            )
        ),
        PUBLISHED: lambda: published_training.PublishedTrainingSAE(
            published_training.PublishedTrainingSAEConfig(
                **{**common, "normalize_activations": "none"},
                apply_b_dec_to_input=False,
                target=float(recipe.k),
            )
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        sae = makers[recipe.arch]()
    for name, value in metadata.items():
        setattr(sae.cfg.metadata, name, value)
    return sae
