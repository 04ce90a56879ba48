"""Moral representations in language models: from human judgements to a report you can doubt."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from moralprobe.activations.extract import extract as extract
    from moralprobe.activations.forecast import plan_extraction as plan_extraction
    from moralprobe.activations.pooling import POOLINGS as POOLINGS
    from moralprobe.activations.store import ActivationStore as ActivationStore
    from moralprobe.activations.store import verify as verify
    from moralprobe.autoencoders import evaluate_sae as evaluate_sae
    from moralprobe.autoencoders import find_features as find_features
    from moralprobe.autoencoders import train_sae as train_sae
    from moralprobe.comparison import Comparison as Comparison
    from moralprobe.comparison import compare as compare
    from moralprobe.control import probe_control as probe_control
    from moralprobe.data.download import download as download
    from moralprobe.data.prompts import TEMPLATES as TEMPLATES
    from moralprobe.data.ratings import Ratings as Ratings
    from moralprobe.data.ratings import load_ratings as load_ratings
    from moralprobe.errors import DataError as DataError
    from moralprobe.errors import DownloadError as DownloadError
    from moralprobe.errors import IntegrityError as IntegrityError
    from moralprobe.errors import ModelError as ModelError
    from moralprobe.errors import MoralprobeError as MoralprobeError
    from moralprobe.errors import NumericError as NumericError
    from moralprobe.errors import StoreError as StoreError
    from moralprobe.errors import UsageError as UsageError
    from moralprobe.evaluating import evaluate_intervention as evaluate_intervention
    from moralprobe.foundations import AXES as AXES
    from moralprobe.foundations import POLES as POLES
    from moralprobe.interventions import direction_intervention as direction_intervention
    from moralprobe.interventions import fit_topology as fit_topology
    from moralprobe.models.available import available_models as available_models
    from moralprobe.models.causal import CausalModel as CausalModel
    from moralprobe.models.load import load_model as load_model
    from moralprobe.moral_vectors import MoralVectors as MoralVectors
    from moralprobe.moral_vectors import build_vectors as build_vectors
    from moralprobe.probing import probe as probe
    from moralprobe.report.page import write_report as write_report
    from moralprobe.sae.load import load_sae as load_sae
    from moralprobe.sae.recipe import Recipe as Recipe
    from moralprobe.sites import Site as Site
    from moralprobe.steering.generate import generate as generate
    from moralprobe.steering.intervention import Intervention as Intervention
    from moralprobe.steering.sampling import Sampling as Sampling
    from moralprobe.study import Study as Study
    from moralprobe.table import MEASURES as MEASURES

# Where each public name lives. They are imported when first asked for: `import moralprobe` is
# instant and needs no torch.
_HOMES = {
    "AXES": "foundations",
    "ActivationStore": "activations.store",
    "CausalModel": "models.causal",
    "Comparison": "comparison",
    "DataError": "errors",
    "DownloadError": "errors",
    "IntegrityError": "errors",
    "Intervention": "steering.intervention",
    "MEASURES": "table",
    "ModelError": "errors",
    "MoralVectors": "moral_vectors",
    "MoralprobeError": "errors",
    "NumericError": "errors",
    "POLES": "foundations",
    "POOLINGS": "activations.pooling",
    "Ratings": "data.ratings",
    "Recipe": "sae.recipe",
    "Sampling": "steering.sampling",
    "Site": "sites",
    "StoreError": "errors",
    "Study": "study",
    "TEMPLATES": "data.prompts",
    "UsageError": "errors",
    "available_models": "models.available",
    "build_vectors": "moral_vectors",
    "compare": "comparison",
    "direction_intervention": "interventions",
    "download": "data.download",
    "evaluate_intervention": "evaluating",
    "evaluate_sae": "autoencoders",
    "extract": "activations.extract",
    "find_features": "autoencoders",
    "fit_topology": "interventions",
    "generate": "steering.generate",
    "load_model": "models.load",
    "load_ratings": "data.ratings",
    "load_sae": "sae.load",
    "plan_extraction": "activations.forecast",
    "probe": "probing",
    "probe_control": "control",
    "train_sae": "autoencoders",
    "verify": "activations.store",
    "write_report": "report.page",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moralprobe' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"moralprobe.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *__all__]
