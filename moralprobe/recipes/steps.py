"""How vectors, states and the study are made: a function a step, by the package's public functions.

Each returns the files by which its result is known again, and continues what a kill has left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moralprobe.recipes.jobs import STORE, STUDY, VECTORS, Job, from_store
from moralprobe.recipes.ledger import Ledger
from moralprobe.recipes.options import RunRecipe

if TYPE_CHECKING:
    from moralprobe.activations.extract import Progress
    from moralprobe.models.causal import CausalModel
    from moralprobe.probing import ProbeOptions
    from moralprobe.sae.load import LoadedSAE

DATASET: Final = "social-chem-101"
Step = Callable[[int, int, str], None]
Watch = Callable[[str], AbstractContextManager[Step]]


@dataclass
class Run:
    """A run under way: what is asked for, where it goes, and who is told of it.

    `say` is called with what a user should know, `begins` with what is done next, and `watch` with
    what takes long: it gives a context, and in it a function of what is done of how many.
    """

    recipe: RunRecipe
    out: Path
    ledger: Ledger
    say: Callable[[str], None]
    begins: Callable[[str], None]
    watch: Watch

    @cached_property
    def model(self) -> CausalModel:
        """The model, loaded when first needed and held against the one of earlier jobs."""
        from moralprobe.models.load import load_model

        general = self.recipe.general
        self.begins(f"loading {general.model}")
        model = load_model(
            general.model,
            dtype=general.dtype,
            device=general.device,
            revision=general.revision,
            layers_path=general.layers_path,
        )
        self.ledger.check_model(general.model, model.identity)
        return model

    @property
    def vectors(self) -> Path:
        """The table of moral vectors."""
        return self.out / VECTORS

    def texts_for(self, mode: str) -> Path:
        """What a mode's autoencoders are trained on: the table, or the store of it."""
        stored = from_store(self.recipe, mode, self.model.n_layers)
        return self.out / STORE if stored else self.vectors

    def sae(self, folder: str) -> LoadedSAE:
        """An autoencoder of this run, on the model's device."""
        from moralprobe.sae.load import load_sae

        return load_sae(self.out / folder, device=str(self.model.device))


def make_vectors(run: Run, job: Job) -> list[Path]:
    """Download where that is asked for, and build the table."""
    from moralprobe.data.download import download
    from moralprobe.moral_vectors import MoralVectors, build_vectors

    options = run.recipe.steps["vectors"]
    source = options.source
    if source == DATASET:
        with run.watch(f"downloading {source}") as step:
            source = download(
                source,
                url=options.url,
                progress=lambda done, total: step(done, total, "bytes"),
                say=run.say,
            )
    if str(source).endswith(".parquet"):
        table = MoralVectors.load(Path(source))
    else:
        table = build_vectors(
            source,
            schema=options.schema,
            agreement=options.agreement,
            strict=options.strict,
        )
    return [table.save(run.vectors)]


def extract_states(run: Run, job: Job) -> list[Path]:
    """Read every distinct text."""
    from moralprobe.activations.extract import extract
    from moralprobe.artifacts import MANIFEST
    from moralprobe.moral_vectors import MoralVectors

    general, options = run.recipe.general, run.recipe.steps["extract"]
    vectors, model = MoralVectors.load(run.vectors), run.model
    with run.watch("reading texts") as step:

        def progress(p: Progress) -> None:
            step(p.texts, p.total, f"texts, {p.bytes / 1e6:,.0f} MB written")

        extract(
            model,
            vectors,
            run.out / STORE,
            layers=options.layers,
            poolings=options.pooling,
            template=general.template,
            max_tokens=general.max_tokens,
            batch_tokens=options.batch_tokens,
            share=options.share,
            progress=progress,
            say=run.say,
        )
    return [run.out / STORE / MANIFEST]


def probe_store(run: Run, job: Job) -> list[Path]:
    """Run the analyses, and write the study's report."""
    from moralprobe.activations.store import ActivationStore
    from moralprobe.probing import options_of, probe
    from moralprobe.report.page import write_report
    from moralprobe.study import TABLES, finished

    store, folder = ActivationStore.open(run.out / STORE), run.out / STUDY
    options = run.recipe.steps["probe"]
    asked: ProbeOptions = {
        "analyses": options.analyses,
        "mode": run.recipe.general.mode,
        "quota": options.quota,
        "hdbscan": options.hdbscan,
        "everywhere": options.everywhere,
        "draws": options.draws,
        "seed": options.seed,
        "twin": ActivationStore.open(Path(options.twin)) if options.twin else None,
        "sentence": options.sentence,
    }
    study = finished(folder, store, **options_of(**asked))
    if study is None:
        with run.watch("probing") as step:
            study = probe(store, **asked, progress=lambda done, total: step(done, total, ""))
        study.save(folder)
    write_report(study, folder / "report")
    return [*(folder / name for name in TABLES), folder / "study.json"]
