"""What `check_environment` looks at."""
