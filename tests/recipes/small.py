"""The paper's recipe, made small enough for a model of three layers."""

from __future__ import annotations

from pathlib import Path

SMALL = {
    "vectors": "starter",
    "dtype": "fp32",
    "probe.draws": "100",
    "probe.hdbscan": "none",
    "probe.analyses": "separation",
    "extract.pooling": "mean,mean_unit",
    "sae.train.layer": "1",
    "sae.train.expansion": "4",
    "sae.train.audited.k": "4",
    "sae.train.audited.steps": "150",
    "sae.train.audited.batch": "512",
    "sae.train.audited.lr": "2e-3",
    "sae.train.li2026.k": "8",
    "sae.train.li2026.steps": "200",
    "sae.train.li2026.lr": "1e-2",
    "sae.train.li2026.batch": "128",
    "sae.features.causal": "2",
    "sae.features.pages": "2",
    "topology.fit.epochs": "2",
    "topology.fit.draws": "20",
    "topology.survive.draws": "20",
    "topology.survive.layers": "2",
    "topology.survive.analyses": "separation",
    "evaluate.data": "english",
    "evaluate.suite": "flames",
    "evaluate.prompts": "4",
    "evaluate.max-tokens": "4",
    "evaluate.strengths": "0,1",
    "evaluate.geometry.seeds": "0",
}


def small(model: Path, **others: str) -> dict[str, str]:
    """Return overrides of the paper's recipe for a tiny model; dots are written as double _."""
    return {"model": str(model), **SMALL, **{k.replace("__", "."): v for k, v in others.items()}}
