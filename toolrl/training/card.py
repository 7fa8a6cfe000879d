"""The README.md of a run's folder, in place of TRL's draft of a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolrl import __version__
from toolrl.policy.settings import ALIASES


def write_card(
    folder: Path, *, method: str, model: str, learnt_from: list[str], citation: str, facts: Mapping[str, Any]
) -> None:
    """Write it.

    Args:
        folder: Of the run.
        method: "GRPO" or "SFT".
        model: What was trained: "tiny", a folder, or a hub id.
        learnt_from: Environments, or files of demonstrations.
        citation: BibTeX of the method.
        facts: Further settings, by name.
    """
    is_local = Path(model).exists() or model in ALIASES
    front = "---\nlibrary_name: transformers\n" + ("" if is_local else f"base_model: {json.dumps(model)}\n")
    front += "tags:\n- toolrl\n- trl\n- " + method.lower() + "\n---\n"
    named = dict.fromkeys(ALIASES, "the policy that comes with toolrl").get(model, f"`{model}`")
    rows = "\n".join(f"- {name}: `{value}`" for name, value in facts.items())
    sources = ", ".join(f"`{source}`" for source in learnt_from)
    evaluate = learnt_from[0] if method == "GRPO" else "ENV"
    text = f"""{front}
# {folder.resolve().name}

{named[0].upper() + named[1:]}, trained with {method} (TRL) on {sources} by toolrl {__version__}.

{rows}

The trained model is in `model/`, what it was trained with in `config.yaml`. To try it:

```console
toolrl eval {evaluate} --model {folder}/model
```
"""
    if citation:
        text += f"\n```bibtex\n{citation.strip()}\n```\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
