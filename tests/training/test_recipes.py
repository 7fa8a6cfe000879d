"""Promises about the recipes: each can be used by name, and its batches are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

import toolrl.training
import toolrl_envs
from toolrl import ConfigError
from toolrl.training import find_config, parse_arguments, parse_sft_arguments

ALL = sorted(path.stem for path in (Path(toolrl.training.__file__).parent / "recipes").glob("*.yaml"))
WARM_STARTS = [name for name in ALL if name.endswith("_sft")]
RECIPES = [name for name in ALL if name not in WARM_STARTS]
ON_A_CPU = ("tiny", "database", "frozen_lake", "smollm2")
# The number of devices each is for, according to its first lines.
DEVICES = dict.fromkeys(RECIPES, 1) | dict.fromkeys(
    ("search_r1_qwen2.5_3b", "torl_qwen2.5_math_1.5b", "vllm_8gpu", "vllm_2nodes"), 8
)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_read_and_its_batches_are_whole(name: str) -> None:
    # A machine without a GPU refuses bfloat16.
    arguments, args, model_config = parse_arguments(["--config", name, "--use_cpu=true", "--bf16=false"])
    assert model_config.model_name_or_path
    assert arguments.weighted_envs()
    assert arguments.sampler_settings().sampler
    episodes = int(args.generation_batch_size or 0) * DEVICES[name]
    assert episodes % args.num_generations == 0
    update = args.per_device_train_batch_size * args.gradient_accumulation_steps * DEVICES[name]
    assert episodes % update == 0
    assert (args.max_completion_length or 0) >= arguments.max_turn_tokens


@pytest.mark.parametrize("name", WARM_STARTS)
def test_a_run_starts_from_what_its_warm_start_writes(name: str) -> None:
    arguments, args, _ = parse_sft_arguments(["--config", name])
    assert arguments.dataset
    _, _, model_config = parse_arguments(["--config", name.removesuffix("_sft")])
    assert model_config.model_name_or_path == f"{args.output_dir}/model"
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert all(path in makefile for path in [*arguments.dataset, f"{args.output_dir}/model", f"--config {name}"])


@pytest.mark.parametrize("name", ON_A_CPU)
def test_the_environments_of_a_recipe_for_a_cpu_can_be_made(name: str) -> None:
    arguments, args, _ = parse_arguments(["--config", name])
    for env in arguments.make_envs("test").values():
        assert (args.max_completion_length or 0) <= env.limits.completion_tokens
        env.close()


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ON_A_CPU])
def test_a_recipe_for_a_gpu_says_how_to_run_it_and_that_it_is_untried(name: str) -> None:
    text = Path(find_config(name)).read_text()
    assert f"--config {name}" in text
    assert "Untested on a GPU" in text


def test_the_lakes_recipe_starts_from_what_its_readme_writes() -> None:
    readme = (Path(toolrl_envs.__file__).parent / "toy_text" / "README.md").read_text()
    arguments, args, model_config = parse_arguments(["--config", "frozen_lake"])
    start = str(model_config.model_name_or_path).removeprefix("./").removesuffix("/model")
    assert f"--output_dir {start} " in readme
    assert "toolrl train --config frozen_lake " in readme
    assert f"{args.max_steps} steps of {args.per_device_train_batch_size} episodes" in readme
    assert f"temperature {args.temperature}" in readme
    assert f"{arguments.eval_tasks} held-out lakes" in readme


def test_a_config_is_a_file_or_the_name_of_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("max_steps: 7\nuse_cpu: true\nbf16: false\n")
    assert parse_arguments(["--config", str(file)])[1].max_steps == 7
    assert parse_arguments([f"--config={file}"])[1].max_steps == 7
    with pytest.raises(ConfigError, match=r"no config file at 'tny'.*tiny"):
        parse_arguments(["--config", "tny"])
