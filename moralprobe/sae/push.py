"""Autoencoders on the Hugging Face Hub, in the layout that SAELens reads."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, Final
from urllib.parse import quote

from moralprobe.errors import ModelError, StoreError, UsageError
from moralprobe.files import atomic_path, canonical_json, check_writable, write_bytes
from moralprobe.sae.load import CONFIG, WEIGHTS, hub_error, load_sae, sae_folders

README: Final = "README.md"
SPARSITY: Final = "sparsity.safetensors"
_EXAMPLE: Final = "user/name"
_LOG_IN: Final = "log in by: hf auth login, or set HF_TOKEN to a token that may write"
_LOCAL: Final = re.compile(r"file:|/(?!\s)|~\w*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\")
_HEADER: Final = """\
---
library_name: saelens
tags:
- saelens
- sparse-autoencoder
- moralprobe
---

# Sparse autoencoders

Each folder holds one in SAELens' format. No text that it was trained on is in it: it holds
weights, settings, and the names and checksums of the texts.
"""


def layout(folder: Path, out: Path, *, repo_id: str = _EXAMPLE) -> list[str]:
    """Write autoencoders as they would lie on the Hub: a folder each, and a README.

    Args:
        folder: an autoencoder, or a folder of several.
        out: the folder to write, new or empty.
        repo_id: the name that the README loads them by.

    Returns:
        The names of the autoencoders' folders, which are their ids in SAELens.

    Raises:
        As `load_sae`; and StoreError: `out` isn't empty or can't be written to.
        UsageError: a repo or a folder of a name that the Hub doesn't take.
    """
    check_repo_id(repo_id)
    out = Path(out)
    check_writable(out)
    if out.is_dir() and any(out.iterdir()):
        raise StoreError(f"{out} is not empty", "a layout is written whole", "give a new folder")
    files, sections = _plan(folder, repo_id)
    files[README] = _with_sections(_HEADER, sections).encode()
    for name, content in files.items():
        if isinstance(content, bytes):
            write_bytes(out / name, content)
        else:
            with atomic_path(out / name) as temporary:
                shutil.copyfile(content, temporary)
    return list(sections)


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    endpoint: str | None = None,
    revision: str | None = None,
) -> str:
    """Publish autoencoders on the Hub in one commit, without a second copy of them on the disk.

    A README that the repo has is kept, but for the sections of the autoencoders that are pushed.

    Args:
        folder: an autoencoder, or a folder of several.
        repo_id: as `user/name`; the repo is made if there is none.
        private: make the repo private, and refuse one that is public.
        endpoint: another Hub than the one that huggingface_hub is set to.
        revision: a branch that exists; without it the main one.

    Returns:
        The address of the repo.

    Raises:
        As `load_sae`; and UsageError: a repo or a folder of a name that the Hub doesn't take.
        ModelError: offline, no token, or refused by the Hub; nothing is published then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    check_repo_id(repo_id)
    if constants.HF_HUB_OFFLINE:
        raise _failed(repo_id, "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set", "unset it")
    if not (token := get_token()):
        raise _failed(repo_id, "no token of the Hub is found", _LOG_IN)
    files, sections = _plan(folder, repo_id)
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise _failed(repo_id, "the repo is there and public", "give another, or no --private")
        theirs = _HEADER
        if api.file_exists(repo_id, README, revision=revision):
            path = api.hf_hub_download(repo_id, README, revision=revision)
            theirs = Path(path).read_text("utf-8")
        files[README] = _with_sections(theirs, sections).encode()
        api.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Add {', '.join(sections)}",
            revision=revision,
        )
    except (hub_error(), OSError, ValueError, RuntimeError, KeyError) as error:
        raise _failed(repo_id, *_reason(error)) from error
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{quote(revision, safe='')}" if revision else "")


def check_repo_id(repo_id: str) -> None:
    """Refuse what can't name a repo on the Hub.

    Raises:
        UsageError: it isn't `user/name`.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(repo_id, README)
        why = "" if "/" in repo_id else "it names no user or organisation"
    except HFValidationError as error:
        why = str(error)
    if why:
        raise UsageError(f"{repo_id!r} is no repo of the Hub", why, "write it as user/name")


def _plan(folder: Path, repo_id: str) -> tuple[dict[str, bytes | Path], dict[str, str]]:
    """Return what goes to the Hub, bytes or a file by path, and the README's section of each."""
    files: dict[str, bytes | Path] = {}
    sections: dict[str, str] = {}
    for path in sae_folders(folder):
        loaded = load_sae(path)
        name = str(loaded.site) if path == Path(folder) else path.name
        if not re.fullmatch(r"[\w+=,-][\w .+=,-]*", name):
            raise UsageError(f"{name!r} can't be a folder's name on the Hub", "", "rename it")
        config = _without_paths(json.loads((path / CONFIG).read_bytes()))
        files[f"{name}/{CONFIG}"] = canonical_json(config) + b"\n"
        for file in (WEIGHTS, SPARSITY):
            if (path / file).is_file():
                files[f"{name}/{file}"] = path / file
        sections[name] = _section(name, config, repo_id)
    return files, sections


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config that says of places on this machine no more than their last name."""
    metadata = dict(config["metadata"])
    # An id of the Hub, owner/name, looks like a folder, and is needed whole.
    known = str((metadata.get("model_identity") or {}).get("id")).removesuffix(" (untrained)")
    if source := (origin := metadata.get("model_origin") or {}).get("source"):
        metadata["model_origin"] = {**origin, "source": known if source == known else _last(source)}
    if texts := metadata.get("texts"):
        metadata["texts"] = [_last(path) for path in texts]
    if hashes := metadata.get("text_hashes"):
        # Numbered, since texts of two folders may have one name; each is known by its hash.
        named = {f"{n} {_last(path)}": digest for n, (path, digest) in enumerate(hashes.items())}
        metadata["text_hashes"] = named
    cleaned: dict[str, Any] = _walk({**config, "metadata": metadata})
    return cleaned


def _walk(value: Any) -> Any:
    if isinstance(value, dict):
        return {_walk(key): _walk(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_walk(inner) for inner in value]
    return _last(value) if isinstance(value, str) and _LOCAL.match(value) else value


def _last(path: str) -> str:
    return PureWindowsPath(path).name or path.strip("/\\.~") or "folder"  # knows both separators


def _section(name: str, config: Mapping[str, Any], repo_id: str) -> str:
    said = config["metadata"]
    kind = f"vectors of pooling {said.get('pooling')}" if said.get("pooling") else "tokens"
    rows = {
        "model": said.get("model_name"),
        "layer": said.get("hook_name"),
        "architecture": config["architecture"],
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "k": config.get("k"),
        "explained variance, end of training": said.get("explained_variance"),
        f"{kind} trained on": said.get("training_tokens"),
        "a null": "every dimension was shuffled by itself" if said.get("shuffled") else None,
        "texts": said.get("texts"),
        "left out": said.get("left_out"),
        "sink_norm": said.get("sink_norm"),
        "sinks_of_layers": said.get("sinks_of_layers"),
    }
    rows = {_cell(key): _cell(value) for key, value in rows.items() if value is not None}
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""\
## {_cell(name)}

| | |
|---|---|
{table}

```python
from sae_lens import SAE

sae = SAE.from_pretrained({json.dumps(repo_id)}, {json.dumps(name, ensure_ascii=False)})
```

```console
$ moralprobe sae load {repo_id} {shlex.quote(name)} --out sae
```
"""


def _cell(value: Any) -> str:
    """Return a value as plain text in a table of Markdown."""
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)


def _with_sections(readme: str, sections: Mapping[str, str]) -> str:
    """Return a README with these sections, in the place of older ones of the same names."""
    for name, text in sections.items():
        begin, end = f"<!-- moralprobe: {name} -->", f"<!-- /moralprobe: {name} -->"
        old = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", readme, re.DOTALL)
        before = readme[: old.start()] if old else readme + "\n"
        after = readme[old.end() :] if old else "\n"
        readme = f"{before}{begin}\n{text}{end}{after}"
    return readme


def _reason(error: BaseException) -> tuple[str, str]:
    """Return why the Hub wasn't served, and what to do, in words."""
    cause = error
    while not hasattr(cause, "response") and cause.__cause__:
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    known = {
        401: ("the Hub doesn't accept the token (401)", _LOG_IN),
        403: ("the token may not write there (403)", "use one with the right to write"),
        404: ("the Hub has no such repo or branch (404)", "check both, and the right of the token"),
    }
    if status in known:
        return known[status]
    said = getattr(cause, "server_message", None) or str(cause) or type(cause).__name__
    why = f"the Hub answers {status}: {said}" if status else said
    return why.strip().split("\n")[0], "check the network, and repeat the command"


def _failed(repo_id: str, why: str, instead: str) -> ModelError:
    return ModelError(f"can't push to {repo_id}", why, f"nothing is published; {instead}")
