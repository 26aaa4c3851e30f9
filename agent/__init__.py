"""The in-guest attestation agent."""

__version__ = "0.1.0"
