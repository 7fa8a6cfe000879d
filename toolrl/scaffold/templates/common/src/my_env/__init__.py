"""my-about

Importing this package registers the environment with Gymnasium.
"""

import gymnasium

__all__ = ["ENV_ID", "register"]

# Increase the version whenever tasks, tools or rewards change: results of two versions cannot be compared.
ENV_ID = "my_env/MyEnv-v0"


def register() -> None:
    """Register the environment; runs at import, and as the entry point that toolrl looks for."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(id=ENV_ID, entry_point="my_env.env:MyEnv")


register()
