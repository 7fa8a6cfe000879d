"""Tasksets of verifiers as environments, out of process: what verifiers needs contradicts what toolrl needs.

Read in verifiers 0.4.0, `v1/env.py`, `v1/serve/server.py` and `v1/rollout.py`. Its environments play an episode by
themselves against an address, and give back a reward. So `bridge.py` runs in verifiers' own Python, and an episode is
played through the gateway by the agent `play`, which asks the bridge; the gateway keeps every token.

Told apart: the limits of calls and context are the model's, and earn nothing. Whatever else goes wrong in verifiers, in
a taskset or on the way is a fault: the episode is retried, then left out.

Not supported: playing without the agent (and so the audit), environments with several agents, and the hub.
"""

from toolrl.interop.verifiers.environment import VerifiersEnv, from_verifiers, play

__all__ = ["VerifiersEnv", "from_verifiers", "play"]
