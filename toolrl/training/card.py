"""The README.md of a run: a model card, in place of TRL's, which knows neither local models nor held-out tasks."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from toolrl import __version__
from toolrl.evaluation import short_name
from toolrl.evaluation.tables import with_interval
from toolrl.policy.models import is_local
from toolrl.training.held_out import BEST, EnvReports, read_best, read_reports

_NOT_PLAYED = "No held-out tasks were played, so nothing is known of its success. Measure it before you rely on it."


def write_card(
    args: TrainingArguments,
    *,
    method: str,
    model: str,
    sources: Mapping[str, str],
    facts: Mapping[str, Any],
    citation: str = "",
) -> None:
    """Write the card into the run's folder, and next to each model in it.

    Args:
        args: The run's settings.
        method: "GRPO" or "SFT".
        model: What was trained: "tiny", a folder, or a hub id.
        sources: Environments, or files of demonstrations, with what there is to say about each.
        facts: The settings that matter, and what came of them, by name.
        citation: BibTeX of the method.
    """
    folder = Path(str(args.output_dir))
    reports, best = read_reports(folder), read_best(folder)
    is_adapter = (folder / "model" / "adapter_config.json").is_file()
    shown = "The policy that comes with toolrl" if model == "tiny" else f"`{model}`"
    envs = list(sources) if method == "GRPO" else ["ENV"]
    head: dict[str, Any] = {"library_name": "peft" if is_adapter else "transformers"}
    head |= {} if is_local(model) else {"base_model": model}
    head |= {"tags": ["toolrl", "trl", method.lower()]}
    if results := _index(reports.get("after", {})):
        head["model-index"] = [{"name": folder.resolve().name, "results": results}]
    versions = ", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "torch"))
    kind = "an adapter of it is" if is_adapter else "it is"
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {folder.resolve().name}",
        f"{shown}, trained with {method} to use tools; {kind} in `model/`."
        + ("" if (folder / "model").is_dir() else " **This run has not finished.**"),
        "## Training",
        "\n".join(f"- `{source}`: {about}" for source, about in sources.items()),
        _table(("setting", "value"), [(name, f"`{value}`") for name, value in facts.items() if value is not None]),
        f"`config.yaml` has all settings, for `toolrl {'train' if method == 'GRPO' else 'sft'} --config`. Written on "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d} by toolrl {__version__}, with {versions}.",
        "## Results",
        *(_results(reports, best) if reports else [_NOT_PLAYED]),
        "## Use",
        f"```console\ntoolrl eval {' '.join(envs)} --model {folder}/model\n```",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}/model")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{folder}/model")\n```',
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(method, reports, best)),
        *([f"## Citation\n\n```bibtex\n{citation.strip()}\n```"] if citation else []),
    ]
    for place in (folder, folder / "model", folder / BEST):
        if place.is_dir():
            (place / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _results(reports: Mapping[str, EnvReports], best: Mapping[str, Any] | None) -> list[str]:
    columns = {f"{mode} training": reports[mode] for mode in ("before", "after") if mode in reports}
    if best:
        columns[f"best, step {best['step']}"] = best["reports"]
    first = next(iter(columns.values()))
    rows = [
        (
            f"`{env_id}`",
            str(first[env_id].tasks),
            *(with_interval(by[env_id]) for by in columns.values() if env_id in by),
        )
        for env_id in first
    ]
    found = [
        "Success on held-out tasks, with its 95 % interval:",
        _table(("environment", "tasks", *columns), rows),
    ]
    if best:
        found.append(f"The model with the highest mean success is in `{BEST}/`.")
    return found


def _limits(method: str, reports: Mapping[str, EnvReports], best: Mapping[str, Any] | None) -> list[str]:
    limits = []
    if method == "GRPO":
        limits = [
            "Its success was measured with the prompts, tools and limits of the environments above; elsewhere it is "
            "unknown.",
            "It learnt what the environments' rewards accept. `toolrl audit ENV` looks for flaws in a reward, "
            "`toolrl view RUN` shows every episode.",
        ]
    else:
        limits = ["It imitates its demonstrations, also where they are wrong."]
    if best:
        limits.append(f"`{BEST}/` was chosen by the success shown above, which is therefore optimistic for it.")
    unscored = sum(report.unscored for report in reports.get("after", {}).values())
    if unscored:
        limits.append(f"{unscored} held-out episodes have no score, because a sandbox or another service failed.")
    return [*limits, "Run the code that it writes in a sandbox."]


def _index(reports: EnvReports) -> list[dict[str, Any]]:
    """The results as model hubs read them (huggingface_hub, `model_index_to_eval_results`)."""
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"type": env_id, "name": f"{short_name(env_id)}, held-out tasks"},
            "metrics": [{"type": "success", "value": round(report.success, 4)}],
        }
        for env_id, report in reports.items()
        if report.samples
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
