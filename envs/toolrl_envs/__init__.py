"""The environments that come with toolrl. Importing this package registers them with Gymnasium.

    import gymnasium
    import toolrl_envs

    env = gymnasium.make("toolrl/PythonMath-v0")

`gymnasium.make("toolrl_envs:toolrl/PythonMath-v0")` does the same in one line. An environment is imported
when it is made, not when it is registered.
"""

import gymnasium

__all__ = ["ENTRY_POINTS", "register"]

ENTRY_POINTS = {
    "toolrl/PythonMath-v0": "toolrl_envs.python_math.env:PythonMathEnv",
    "toolrl/DocsSearch-v0": "toolrl_envs.docs_search.env:DocsSearchEnv",
    "toolrl/DocsCompute-v0": "toolrl_envs.docs_compute.env:DocsComputeEnv",
    "toolrl/WorldQA-v0": "toolrl_envs.world_qa.env:WorldQAEnv",
    "toolrl/OpenQA-v0": "toolrl_envs.open_qa.env:OpenQAEnv",
    "toolrl/CodeTests-v0": "toolrl_envs.code_tests.env:CodeTestsEnv",
    "toolrl/InstructionFollowing-v0": "toolrl_envs.instruction_following.env:InstructionFollowingEnv",
    "toolrl/ReasoningGym-v0": "toolrl_envs.reasoning_gym.env:ReasoningGymEnv",
    "toolrl/Database-v0": "toolrl_envs.database.env:DatabaseEnv",
    "toolrl/DataFiles-v0": "toolrl_envs.data_files.env:DataFilesEnv",
    "toolrl/Terminal-v0": "toolrl_envs.terminal.env:TerminalEnv",
    "toolrl/Retail-v0": "toolrl_envs.retail.env:RetailEnv",
}


def register() -> None:
    """Register the environments not registered yet; runs at import and as the entry point."""
    for environment_id, entry_point in ENTRY_POINTS.items():
        if environment_id not in gymnasium.registry:
            gymnasium.register(id=environment_id, entry_point=entry_point)


register()
