"""What runs in the process that runs the model's code, on this machine or in a remote kernel. Standard library only."""
