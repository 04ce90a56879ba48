"""`moralprobe serve`: the steering page, on this machine."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from moralprobe.cli.console import notice, say
from moralprobe.errors import UsageError


def serve_command(
    model: Annotated[str, typer.Option(help="A model's id, path or name.")] = "smollm2-135m",
    vectors: Annotated[
        Path | None, typer.Option(help="A file made by 'vectors build': directions are of it.")
    ] = None,
    sae: Annotated[Path | None, typer.Option(help="An autoencoder of the model.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="A folder made by 'sae features' of it.")
    ] = None,
    intervention: Annotated[
        list[Path] | None,
        typer.Option("--intervention", "--interventions", help="A folder of one. Repeatable."),
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="A folder made by 'probe' of this model: what it found.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 7860,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A name that the server is reached by, beside its address. Repeatable."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MORALPROBE_TOKEN",
            help="What clients must know. Others see a command line: better set MORALPROBE_TOKEN.",
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Open a page on which features steer a model.

    It is reached from this machine alone; at another address a token is needed.

    Example: moralprobe serve --model smollm2-135m --vectors starter.parquet
    """
    check_token(token, host)
    hosts = hosts_of(host, port, name or [])
    folders = [path.resolve() for path in intervention or []]
    # What is quickly known is said before anything is loaded, which takes seconds.
    names = [path.name for path in folders]
    if len(set(names)) < len(names):
        raise UsageError(
            "two interventions have the same name",
            ", ".join(names),
            "rename a folder: the page tells them apart by it",
        )
    if features is not None and sae is None:
        raise UsageError(
            "features are an autoencoder's", "no autoencoder is given", "give --sae DIR too"
        )
    for path in (vectors, sae, features, study, *folders):
        if path is not None and not path.exists():
            raise UsageError(f"{path} isn't there", "nothing has that name", "check the path")
    from moralprobe.models.load import load_model
    from moralprobe.sae.load import load_sae
    from moralprobe.steering.intervention import Intervention
    from moralprobe.steering.selection import check_features_of, read_feature_table
    from moralprobe.web.app import create_app
    from moralprobe.web.loaded import Loaded, read_examples, read_study
    from moralprobe.web.server import listening, server_of
    from moralprobe.web.turns import Turns

    loaded_sae = None if sae is None else load_sae(sae)
    if features is not None and loaded_sae is not None:
        # Of whichever table: here nothing is tuned on what they were chosen by.
        for said in check_features_of(features, loaded_sae, Path()):
            notice(f"warning: {said}")
    loaded_model = load_model(model, dtype=dtype, device=device)
    loaded = Loaded(
        loaded_model,
        vectors=vectors,
        sae=loaded_sae,
        features=None if features is None else read_feature_table(features),
        examples={} if features is None else read_examples(features),
        interventions={path.name: Intervention.load(path) for path in folders},
        study=None if study is None else read_study(study, loaded_model),
    )
    turns = Turns()
    app = create_app(loaded, hosts=hosts, token=token or None, turns=turns)
    # Only who holds the port may name it.
    with listening(host, port) as bound:
        say(f"http://{hosts[0]}/")
        if open_page:
            import webbrowser

            webbrowser.open(f"http://{hosts[0]}/")
        try:
            server_of(app).run(sockets=[bound])
        except KeyboardInterrupt:
            notice("ended")
        finally:
            turns.close()


def check_token(token: str | None, host: str) -> None:
    """Refuse to be reached from elsewhere without a token, and one that no header can carry.

    Raises:
        UsageError: as it says; the token isn't repeated.
    """
    if not token:
        if is_loopback(host):
            return
        raise UsageError(
            f"at {host} others could steer the model",
            "there is no token",
            "set MORALPROBE_TOKEN to a long random text, or leave out --host",
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            "this token can't be sent",
            "it holds blanks, or what isn't ASCII",
            "take another: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )


def is_loopback(host: str) -> bool:
    """Return whether an address is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hosts_of(host: str, port: int, names: list[str]) -> list[str]:
    """Return the Host headers that a server answers to.

    Raises:
        UsageError: it listens at all addresses, and no name is given.
    """
    at_all = host in ("0.0.0.0", "::")
    own = f"[{host}]" if ":" in host else host
    known = [] if at_all else [own]
    if is_loopback(host):
        known += [one for one in ("127.0.0.1", "localhost", "[::1]") if one != own]
    known += names
    if not known:
        raise UsageError(
            f"at {host} the server has no name of its own",
            "requests are let in by the name that they ask for",
            "give --name, as others reach this machine",
        )
    plain = known if port in (80, 443) else []
    return [*(f"{one}:{port}" for one in known), *plain]
