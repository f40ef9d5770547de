"""Decides and learns: text, fine-tuning, rank policies."""

import hil  # noqa: F401 - sets how threads wait, which has to stand before torch is loaded
