"""Receives and applies: a quantised llama.cpp model that takes LoRA updates."""
