"""Selected features of an autoencoder as parameters, everything else as it was.

A feature's activation depends on its own encoder row alone, but for TopK, where it must also be
among the largest of all: what the other features' largest are is read once.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch

from moralprobe.errors import NumericError, UsageError

TUNABLE: Final = ("standard", "jumprelu", "topk")
"""Architectures of SAELens' stock classes whose features can be tuned; BatchTopK is saved as
JumpReLU."""
_AT_ONCE: Final = 256  # features whose rows are decoded together


class Tunable(torch.nn.Module):
    """The encoder rows, encoder biases and decoder rows of some features, each [n, d] or [n].

    Decoder rows keep the lengths that they had (`renormalise`).

    Raises:
        UsageError: features that aren't there, or an architecture that can't be tuned.
    """

    def __init__(self, sae: Any, features: torch.Tensor) -> None:
        super().__init__()
        check_features(sae, features)
        self.architecture: str = sae.cfg.architecture()
        if self.architecture not in TUNABLE:
            raise UsageError(
                f"features of a {self.architecture!r} autoencoder can't be tuned",
                f"known are {', '.join(TUNABLE)}",
                "train or load one of these",
            )
        self.sae = [sae]  # in a list: its parameters aren't these
        self._original: list[Tunable] | None = None
        at = features.to(sae.W_enc.device)
        self.features = at
        self.k = int(sae.cfg.k) if self.architecture == "topk" else 0
        rescaled = bool(getattr(sae.cfg, "rescale_acts_by_decoder_norm", False))
        rows = sae.W_dec.detach()[at].float()
        self.lengths = rows.norm(dim=-1)
        self.scale = self.lengths if rescaled else torch.ones_like(self.lengths)
        jump = self.architecture == "jumprelu"
        self.threshold = sae.threshold.detach()[at].float() if jump else None
        self.W_enc = torch.nn.Parameter(sae.W_enc.detach()[:, at].T.float().contiguous())
        self.b_enc = torch.nn.Parameter(sae.b_enc.detach()[at].float().clone())
        self.W_dec = torch.nn.Parameter(rows.clone())

    @torch.no_grad()
    def others(self, x: torch.Tensor) -> torch.Tensor:
        """Return the largest pre-activations of the other features, [tokens, k]; of TopK alone."""
        sae = self.sae[0]
        if not self.k:
            return x.new_empty(len(x), 0)
        pre = sae.process_sae_in(x) @ sae.W_enc + sae.b_enc
        if sae.cfg.rescale_acts_by_decoder_norm:
            pre = pre * sae.W_dec.norm(dim=-1)
        pre[:, self.features] = -torch.inf
        largest: torch.Tensor = pre.topk(self.k, dim=-1).values.float()
        return largest

    def acts(self, x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return the features' activations, [tokens, n].

        Args:
            x: [tokens, d] states in fp32.
            others: what `others` gave of them.
        """
        with torch.no_grad():  # the decoder's bias stays as it is
            shown: torch.Tensor = self.sae[0].process_sae_in(x)
        pre: torch.Tensor = (shown @ self.W_enc.T + self.b_enc) * self.scale
        if self.threshold is not None:
            jumped: torch.Tensor = pre.relu() * (pre > self.threshold)
            return jumped
        if not self.k:
            return pre.relu()
        last = torch.cat([others, pre], dim=-1).topk(self.k, dim=-1).values[..., -1:]
        acts: torch.Tensor = pre.relu() * (pre >= last)
        return acts

    def original(self) -> Tunable:
        """Return the features as the autoencoder has them."""
        if self._original is None:
            self._original = [Tunable(self.sae[0], self.features)]
        return self._original[0]

    @property
    def rows(self) -> torch.Tensor:
        """What each feature adds to a reconstruction at an activation of 1, [n, d]."""
        return self.W_dec / self.scale[:, None]

    @torch.no_grad()
    def put(self, encoder: torch.Tensor, bias: torch.Tensor, decoder: torch.Tensor) -> None:
        """Take other rows.

        Raises:
            UsageError: of another shape.
            NumericError: NaN or infinity.
        """
        given = {"W_enc": encoder, "b_enc": bias, "W_dec": decoder}
        for name, values in given.items():
            mine = getattr(self, name)
            if values.shape != mine.shape:
                raise UsageError(
                    f"the tuned {name} doesn't belong to these features",
                    f"{tuple(values.shape)} where {tuple(mine.shape)} is needed",
                    "give a row a feature",
                )
            if not bool(torch.isfinite(values).all()):
                raise NumericError(f"the tuned {name} holds NaN or infinity", "", "tune again")
            mine.copy_(values)

    @torch.no_grad()
    def renormalise(self) -> None:
        """Give decoder rows the lengths that they had."""
        self.W_dec.mul_((self.lengths / self.W_dec.norm(dim=-1))[:, None])

    @torch.no_grad()
    def written(self) -> Any:
        """Return the autoencoder with these features in it, a stock class of SAELens."""
        sae = copy.deepcopy(self.sae[0])
        sae.W_enc[:, self.features] = self.W_enc.T.to(sae.W_enc)
        sae.b_enc[self.features] = self.b_enc.to(sae.b_enc)
        sae.W_dec[self.features] = self.W_dec.to(sae.W_dec)
        sae.cfg.metadata.tuned_features = len(self.features)
        return sae.eval()


@torch.no_grad()
def decoder_rows(sae: Any, features: torch.Tensor) -> torch.Tensor:
    """Return what each feature adds to a reconstruction at an activation of 1, [n, d] in fp32.

    Taken from the decoder itself, however it weighs its rows.
    """
    at = features.to(sae.W_dec.device)
    nothing = sae.W_dec.new_zeros(1, sae.cfg.d_sae)
    rows = []
    for i in range(0, len(at), _AT_ONCE):
        some = at[i : i + _AT_ONCE]
        one = nothing.repeat(len(some), 1)
        one[torch.arange(len(some), device=at.device), some] = 1
        rows.append((sae.decode(one) - sae.decode(nothing)).float())
    return torch.cat(rows)


def check_features(sae: Any, features: torch.Tensor) -> None:
    """Refuse features that an autoencoder doesn't have, or that can't be edited one by one.

    Raises:
        UsageError: none, one twice, one outside of it; or it rescales its inputs at run time, so
            that what a feature adds isn't its row.
    """
    cfg = sae.cfg
    if cfg.normalize_activations != "none" or cfg.reshape_activations != "none":
        raise UsageError(
            "features of an autoencoder that rescales its inputs can't be edited one by one",
            f"it normalises activations by {cfg.normalize_activations!r}",
            "use one whose weights were saved with the scale folded in",
        )
    outside = [int(f) for f in features if not 0 <= int(f) < cfg.d_sae]
    if outside or not len(features):
        raise UsageError(
            f"there is no feature {outside[0]}" if outside else "no feature is given",
            f"the autoencoder has {cfg.d_sae}, counted from 0",
            "choose some of them",
        )
    if len(set(features.tolist())) < len(features):
        raise UsageError("a feature is named twice", "", "name each once")
