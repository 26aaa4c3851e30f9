"""The admin's first hour: setup, config, policy draft, preflight (DESIGN.md, section 8)."""
