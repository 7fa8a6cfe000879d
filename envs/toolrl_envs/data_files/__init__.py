"""CSV, JSON and Parquet files in the sandbox, and questions about their contents."""

from toolrl_envs.data_files.env import DataFilesEnv

__all__ = ["DataFilesEnv"]
