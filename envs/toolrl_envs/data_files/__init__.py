"""CSV, JSON and Parquet files in the sandbox, and questions about what stands in them."""

from toolrl_envs.data_files.env import DataFilesEnv

__all__ = ["DataFilesEnv"]
