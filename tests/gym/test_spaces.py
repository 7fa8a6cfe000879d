"""Promises about the space of texts, alone and inside Gymnasium's vector environments."""

import json
import pickle
import warnings
from copy import deepcopy
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from hypothesis import given, strategies as st

from toolrl.gym.spaces import UnicodeText

TEXTS = ("", "a\n\tb\x00", "naïve Ж שלום 漢字 한국어", "e\u0301 👩\u200d🚀 \U0010ffff")
ECHO = "toolrl-tests/Echo-v0"


class EchoEnv(gym.Env[str, str]):
    """Observes the last action, cut to the space."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, max_length: int = 64) -> None:
        self.observation_space = UnicodeText(max_length)
        self.action_space = UnicodeText(max_length - 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return f"start {self.np_random.integers(1000)}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return f"{action}!", float(len(action)), action == "stop", False, {}


class LongEnv(EchoEnv):
    """Observes text that is not in its observation space."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "x" * 65, 0.0, False, False, {}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gymnasium.envs.registration.registry", dict(gym.registry))
    gym.register(ECHO, entry_point=EchoEnv)


def vector_env(mode: str, **options: Any) -> VectorEnv:
    return gym.make_vec(ECHO, num_envs=2, vectorization_mode=mode, vector_kwargs=options)


VECTOR_MODES = pytest.mark.parametrize(
    ("mode", "options"),
    [("sync", {}), ("async", {"shared_memory": True}), ("async", {"shared_memory": False})],
    ids=["sync", "async-shared", "async-piped"],
)


@given(st.text(max_size=20))
def test_every_text_up_to_the_length_is_contained(text: str) -> None:
    assert text in UnicodeText(20)


@pytest.mark.parametrize("value", ["x" * 21, "\ud800", "ok\udfff", b"bytes", None, 3, ["x"]])
def test_what_is_too_long_or_not_text_is_not_contained(value: object) -> None:
    assert value not in UnicodeText(20)


@pytest.mark.parametrize("max_length", [0, -1, 2.5, "9", True, None])
def test_a_length_that_is_not_a_positive_integer_is_refused(max_length: Any) -> None:
    with pytest.raises(ValueError, match=r"max_length must be a positive integer, got"):
        UnicodeText(max_length)


def test_samples_are_contained_and_repeat_with_the_seed() -> None:
    space, again = UnicodeText(10, seed=7), UnicodeText(10, seed=7)
    samples = [space.sample() for _ in range(200)]
    assert all(sample in space for sample in samples)
    assert samples == [again.sample() for _ in range(200)]
    space.seed(8)
    assert samples != [space.sample() for _ in range(200)]


def test_samples_contain_what_breaks_naive_code() -> None:
    space = UnicodeText(1000, seed=0)
    text = "".join(space.sample() for _ in range(300))
    assert max(map(ord, text)) > 0xFFFF
    assert {"\n", "\x00", "\u0301", "漢", "😀", "a", "<", '"'} <= set(text)


def test_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="neither `mask` nor `probability`"):
        UnicodeText(5).sample(mask=np.ones(3, dtype=np.int8))  # type: ignore[arg-type]


def test_spaces_are_equal_when_their_lengths_are() -> None:
    assert UnicodeText(5) == UnicodeText(5, seed=1)
    assert UnicodeText(5) != UnicodeText(6)
    assert UnicodeText(5) != gym.spaces.Text(5)
    assert repr(UnicodeText(5)) == "UnicodeText(5)"


@pytest.mark.parametrize("duplicate", [deepcopy, lambda space: pickle.loads(pickle.dumps(space))])
def test_a_copy_and_a_pickle_keep_the_length_and_the_generator(duplicate: Any) -> None:
    space = UnicodeText(30, seed=5)
    space.sample()
    other = duplicate(space)
    assert other == space
    assert [other.sample() for _ in range(5)] == [space.sample() for _ in range(5)]


def test_samples_survive_json() -> None:
    space = UnicodeText(64, seed=0)
    samples = [*TEXTS, *(space.sample() for _ in range(50))]
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(samples)))) == samples


def test_check_env_accepts_an_environment_of_texts() -> None:
    env = gym.make(ECHO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@VECTOR_MODES
def test_a_vector_environment_carries_every_text_unchanged(mode: str, options: dict[str, Any]) -> None:
    envs = vector_env(mode, **options)
    try:
        first, _ = envs.reset(seed=3)
        assert first in envs.observation_space
        assert first == envs.reset(seed=3)[0]
        for texts in zip(TEXTS, reversed(TEXTS), strict=True):
            observations, rewards, _, _, _ = envs.step(texts)
            assert observations == tuple(f"{text}!" for text in texts)
            assert rewards.tolist() == [len(text) for text in texts]
        assert first != observations, "an observation handed out must not change with later steps"
    finally:
        envs.close()


@VECTOR_MODES
def test_a_vector_environment_steps_with_sampled_actions(mode: str, options: dict[str, Any]) -> None:
    envs = vector_env(mode, **options)
    try:
        envs.reset(seed=0)
        envs.action_space.seed(0)
        for _ in range(20):
            actions = envs.action_space.sample()
            observations = envs.step(actions)[0]
            assert observations in envs.observation_space
            assert observations == tuple(f"{action}!" for action in actions)
    finally:
        envs.close()


@VECTOR_MODES
def test_spaces_batch_where_they_are_declared_as_different(mode: str, options: dict[str, Any]) -> None:
    envs = vector_env(mode, observation_mode="different", **options)
    try:
        envs.reset(seed=0)
        assert envs.step(TEXTS[:2])[0] == tuple(f"{text}!" for text in TEXTS[:2])
    finally:
        envs.close()


@pytest.mark.parametrize("vector_class", [SyncVectorEnv, AsyncVectorEnv])
def test_texts_of_different_lengths_do_not_share_a_vector_environment(vector_class: Any) -> None:
    with pytest.raises(RuntimeError, match="observation spaces"):
        vector_class([lambda: EchoEnv(64), lambda: EchoEnv(32)]).close()


def test_texts_nest_in_other_spaces_in_shared_memory() -> None:
    class NestedEnv(gym.Env[dict[str, Any], str]):
        observation_space = gym.spaces.Dict({"text": UnicodeText(8), "turn": gym.spaces.Discrete(9)})
        action_space = UnicodeText(8)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
            super().reset(seed=seed)
            return {"text": "", "turn": 0}, {}

        def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
            return {"text": action, "turn": 1}, 0.0, False, False, {}

    envs = AsyncVectorEnv([NestedEnv, NestedEnv])
    try:
        envs.reset(seed=0)
        observations = envs.step(("😀", "b"))[0]
        assert observations["text"] == ("😀", "b")
        assert observations["turn"].tolist() == [1, 1]
    finally:
        envs.close()


def test_without_a_copy_shared_memory_is_a_live_view() -> None:
    envs = AsyncVectorEnv([EchoEnv, EchoEnv], copy=False)
    try:
        texts: Any = envs.reset(seed=0)[0]
        envs.step(("one", "two"))
        assert list(texts) == ["one!", "two!"]
        assert texts[-1] == "two!"
        assert texts[:1] == ("one!",)
        assert repr(texts) == "('one!', 'two!')"
    finally:
        envs.close()


@pytest.mark.filterwarnings("ignore::UserWarning")  # how Gymnasium reports a worker's traceback
def test_a_text_that_overflows_shared_memory_is_an_error_and_overwrites_nothing() -> None:
    envs = AsyncVectorEnv([EchoEnv, LongEnv])
    try:
        envs.reset(seed=0)
        with pytest.raises(ValueError, match=r"not in UnicodeText\(64\)"):
            envs.step(("a", "b"))
    finally:
        envs.close()


def test_wrappers_that_need_an_empty_observation_get_an_empty_text() -> None:
    env = gym.wrappers.DelayObservation(gym.make(ECHO), delay=1)
    assert env.reset(seed=0)[0] == ""
    env.close()
