"""The vendors' services: endorsements fetched, checked and kept on disk. Never in early boot."""
