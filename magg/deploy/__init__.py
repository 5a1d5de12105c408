"""Deploying: the cloud side is set up, looked at and torn down."""
