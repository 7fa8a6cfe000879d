"""A shop's customer service: exchanges, returns, cancellations and more, under a policy that must be kept."""

from toolrl_envs.retail.env import RetailEnv

__all__ = ["RetailEnv"]
