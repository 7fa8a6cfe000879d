"""The checks of `check_environment`."""
