"""The wire format: what the page and any other client send and get. There is no other."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_CHARACTERS: Final = 8_000
MOST_TOKENS: Final = 512
MOST_SOURCES: Final = 8
MOST_FEATURES: Final = 64
MOST_STRENGTH: Final = 1_000.0

Strength = Annotated[float, Field(ge=-MOST_STRENGTH, le=MOST_STRENGTH)]
Offset = Annotated[int, Field(ge=0, le=MOST_CHARACTERS)]
Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class Strict(BaseModel):
    """Unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Direction(Strict):
    """A direction that tells the table's texts apart, as long as a state there usually is.

    `add` adds it, `project-out` takes away what states have along it, `cap` what they have of it
    over the bound.
    """

    kind: Literal["direction"]
    target: str = Field(max_length=64, description="One of /api/about's targets.")
    layer: int = Field(ge=0, le=10_000)
    method: Literal["add", "project-out", "cap"] = "add"
    bound: float = Field(
        default=0.0, ge=-10, le=10, description="Of `cap`, in lengths of the direction."
    )
    strength: Strength = 0.1


class FeatureChange(Strict):
    """A feature's activation z becomes scale z + offset."""

    feature: int = Field(ge=0, le=1 << 30)
    scale: float = Field(default=1.0, ge=-MOST_STRENGTH, le=MOST_STRENGTH)
    offset: float = Field(default=0.0, ge=-1e6, le=1e6)


class Features(Strict):
    """Single features of the autoencoder; only what they change enters."""

    kind: Literal["features"]
    changes: list[FeatureChange] = Field(min_length=1, max_length=MOST_FEATURES)
    strength: Strength = 1.0


class Fitted(Strict):
    """An intervention that was loaded when the server started."""

    kind: Literal["intervention"]
    name: str = Field(max_length=200, description="One of /api/about's interventions.")
    strength: Strength = 1.0


Source = Annotated[Direction | Features | Fitted, Field(discriminator="kind")]


class SteerRequest(Strict):
    """A prompt, what steers, and how it is written; both texts are drawn by the same numbers."""

    prompt: Text
    sources: list[Source] = Field(default=[], max_length=MOST_SOURCES)
    chat: bool | None = Field(
        default=None,
        description="Put the prompt into the chat template; if null, where one is.",
    )
    positions: Literal["all", "prompt", "generated", "spans"] = "all"
    span: tuple[Offset, Offset] | None = Field(
        default=None,
        description="Of `spans`: the prompt's first character that is edited, and the first after.",
    )
    max_tokens: int = Field(default=64, ge=1, le=MOST_TOKENS)
    temperature: float = Field(default=0.7, ge=0, le=10)
    top_p: float = Field(default=0.9, gt=0, le=1)
    seed: int = Field(default=0, ge=0, le=2**53)

    @model_validator(mode="after")
    def _span_of_the_prompt(self) -> Self:
        if (self.positions == "spans") != (self.span is not None):
            raise ValueError("a span stands with the positions `spans`, and with no others")
        if self.span is not None:
            first, after = self.span
            if not after <= len(self.prompt) or not self.prompt[first:after].strip():
                raise ValueError("a span holds characters of the prompt, not blanks alone")
        return self

    @property
    def words(self) -> tuple[int, int] | None:
        """The span without the blanks at its ends: a token often holds the blank before a word."""
        if self.span is None:
            return None
        first, after = self.span
        some = self.prompt[first:after]
        return first + len(some) - len(some.lstrip()), after - len(some) + len(some.rstrip())


class Piece(Strict):
    """Event `piece`: what comes next in one of the texts."""

    side: Literal["default", "steered"]
    text: str


class Written(Strict):
    """A whole text, and what steering did on the way."""

    text: str
    tokens: int
    ended: bool = Field(description="The model ended it itself.")
    edits: int = Field(description="States that were changed, one a layer and token.")
    change: float = Field(description="How large a change was on average, of the state.")
    perplexity: float | None = Field(description="Of the text under the model as it is.")
    loop: int = Field(
        description="Words or characters in the longest stretch that is one phrase again and again."
    )


class Done(Strict):
    """Event `done`, the last one: both texts, whether they are the same to the token, and KL.

    `kl` is KL(as it is || steered) of each next token of the steered text, in nats; `kl_tokens`
    are these tokens as text, one that ends within a character empty. Both are empty where nothing
    steers. `edited` is the text of the tokens that a span reaches.
    """

    default: Written
    steered: Written
    same: bool
    kl: list[float]
    kl_tokens: list[str]
    edited: str | None
    warnings: list[str]


class Failure(Strict):
    """What went wrong: what failed, why, and what to do instead. Also event `error`."""

    what: str
    why: str = ""
    instead: str = ""


class Absent(Strict):
    """Something that isn't offered, and why."""

    what: str
    why: str


class StudyFound(Strict):
    """What a study of this model found, in words, and what to know first.

    `confounded` are the layers in which length explains the numbers that a place shows as li2026.
    """

    name: str
    caveats: list[str]
    findings: list[str]
    confounded: list[int]


class Example(Strict):
    """A prompt to begin with, of the project's own."""

    foundation: str
    text: str


class About(Strict):
    """What is loaded, what can steer, and what can't."""

    version: str
    model: str
    layers: int
    d_model: int
    dtype: str
    device: str
    chat: bool
    poles: list[str]
    targets: list[str] = Field(description="What a direction can lead to; empty without a table.")
    table: str | None
    sae: str | None
    sae_layer: int | None
    features: int | None
    interventions: list[str]
    study: StudyFound | None
    prompts: list[Example]
    absent: list[Absent]
    limits: dict[str, float]


class Feature(Strict):
    """A feature in the list.

    Only one that was `chosen` has a pole, and only of it is it known whether that `holds` on texts
    that it wasn't chosen by.
    """

    feature: int
    chosen: bool
    pole: str | None
    effect: float | None
    specificity: float | None
    density: float | None
    holds: bool | None
    texts: list[str]


class FeatureList(Strict):
    """Features that were found, the strongest first."""

    features: list[Feature]
    of: int


class Measured(Strict):
    """A number of a feature, as it is shown."""

    name: str
    value: str


class FeatureRequest(Strict):
    """A feature that is asked about."""

    feature: int = Field(ge=0, le=1 << 30)


class FeaturePage(Strict):
    """What is known of a feature: numbers and texts of its table, and the tokens that it promotes.

    Without a table only the tokens are known: its direction, unembedded, which leaves out the final
    norm and the layers between. The numbers are of `pole`, whether or not it was chosen for it.
    """

    feature: int
    pole: str | None
    said: str | None
    numbers: list[Measured]
    texts: list[str]
    raised: list[str]
    lowered: list[str]


class FiresRequest(Strict):
    """A text whose features are asked for."""

    text: Text
    chat: bool | None = Field(
        default=None, description="Put it into the chat template; if null, where one is."
    )
    most: int = Field(default=20, ge=1, le=100)


class Fired(Strict):
    """A feature and how active it is at every token of the text; a pole if it was chosen."""

    feature: int
    pole: str | None
    largest: float
    activations: list[float]


class Fires(Strict):
    """The tokens of a text, and the features that are most active in it; sinks are left out."""

    tokens: list[str]
    left_out: list[bool]
    features: list[Fired]


class PlaceRequest(Strict):
    """A sentence that says an action, and what steers while it is read."""

    sentence: str = Field(min_length=1, max_length=1_000)
    sources: list[Source] = Field(default=[], max_length=MOST_SOURCES)


class Map(Strict):
    """The plane that holds most of the ten directions: where poles and the sentence lie in it.

    A point is a pair of cosines; null where a pole has no text. `share` says how much of the
    directions lies in the plane.
    """

    poles: list[list[float] | None]
    before: list[float] | None
    after: list[float] | None
    share: float


class Place(Strict):
    """Likeness of a sentence to each pole: by mode, layer and pole, unsteered and steered.

    Likeness is the cosine, less the mean of the table's texts, with the centre of a pole's texts.
    """

    poles: list[str]
    texts: int = Field(description="That the centres are of.")
    before: dict[str, list[list[float | None]]]
    after: dict[str, list[list[float | None]]] | None
    maps: list[Map]
    sink_ratio: list[float] = Field(description="Token 0's norm over the others', by layer.")
    sinks: list[int] = Field(description="Layers in which token 0 is an attention sink.")
    warnings: list[str]
