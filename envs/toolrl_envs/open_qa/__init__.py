"""Open questions from data sets in the formats of HotpotQA, 2WikiMultihopQA, MuSiQue and Natural Questions."""

from toolrl_envs.open_qa.env import OpenQAEnv

__all__ = ["OpenQAEnv"]
